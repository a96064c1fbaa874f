"""Translations with nothing but what a checkpoint's files say, from text to text: transformers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fake_backend  # noqa: F401  (stands in for Triton's own module)
import pytest
from driving import Collector
from engines import engine
from tiny.bart import write_marian
from transformers import MarianMTModel, MarianTokenizer

from atoll.config import Settings
from atoll.engine.request import Request
from atoll.serving.requests.prompts import Prompt, PromptEncoder
from atoll.serving.requests.sampling_options import fitted, read_options
from atoll.text.tokenizer import Tokenizer

FLAGS = dict.fromkeys(
    ("return_logprobs", "return_cumulative_logprob", "return_prompt_logprobs"), False
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Marian whose files ask for beams, a length, an end, and words that do not come."""
    found = tmp_path_factory.mktemp("marian")
    _, pad = write_marian(found)
    path = found / "generation_config.json"
    changes = {"max_length": 20, "bad_words_ids": [[pad], [5, 6]]}
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return found


@pytest.mark.parametrize("given", [{"num_beams": 1}, {}, {"num_beams": 1, "tgt_lang": "deu"}])
def test_translations_are_those_of_generate(given: dict[str, Any], folder: Path) -> None:
    theirs, words = MarianMTModel.from_pretrained(folder), MarianTokenizer.from_pretrained(folder)
    ours = Tokenizer.load(folder)
    with engine(folder) as loaded:
        limits, prompts = loaded.limits, PromptEncoder(ours, None, loaded.limits)
        asked = read_options(
            None, given, None, Settings(), default_max_tokens=16, limits=limits,
            eos_token_ids=ours.eos_token_ids,
        )  # fmt: skip
        for text in ("the cat sat.", "日本 hello１２", "x"):
            ids = prompts.encode(Prompt(text=text, num_characters=len(text)), asked).ids
            start, sink = prompts.answer_start(asked), Collector()
            options = fitted(asked, "text_input", len(ids), limits, FLAGS, len(start)).sampling
            loaded.engine.submit(Request(text, start, options, sink, encoder_ids=tuple(ids)))
            assert sink.ended.wait(60) and sink.error is None
            code = f">>{given['tgt_lang']}<<" if "tgt_lang" in given else ""
            inputs = words(code + text, return_tensors="pt")
            beams = {k: v for k, v in given.items() if k == "num_beams"}
            expected = theirs.generate(**inputs, **beams)[0, 1:].tolist()
            assert sink.ids == expected and len(expected) == 19
            assert ours.decode(sink.ids) == words.decode(expected, skip_special_tokens=True)
