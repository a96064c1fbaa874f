"""Where a checkpoint's files say that the start of a long text is cut off, its end is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny.encoders import classifiers
from tiny.sentence import update, write_trunk
from transformers import AutoTokenizer

from atoll.errors import ConfigError
from atoll.text.text_encoder import TextEncoder
from atoll.text.tokenizer import Tokenizer

LONG = "".join(chr(33 + i % 60) for i in range(400))
PAIRS = [("coral?", LONG), (LONG, "reef"), (LONG, LONG[:301])]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "tokenizer.json"])
def test_the_side_is_transformers(tmp_path: Path, file: str, side: str) -> None:
    """``truncation_side`` was not read: of a text beyond the limit the start was kept."""
    write_trunk(classifiers(1)[0], tmp_path)
    if file == "tokenizer_config.json":
        update(tmp_path / file, truncation_side=side)
    else:
        # Written by a tokenizer that was saved while it cut; the other file, if it says so, wins.
        state = json.loads((tmp_path / file).read_text())
        state["truncation"] = {
            "direction": side.title(), "max_length": 64, "strategy": "LongestFirst", "stride": 0,
        }  # fmt: skip
        (tmp_path / file).write_text(json.dumps(state))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    assert ours.truncation_side == theirs.truncation_side == side
    encoder = TextEncoder(ours.core, 32)
    for texts in ([LONG], *([pair] for pair in PAIRS)):
        (found,) = encoder.encode(texts, name="x", truncate=True, direction=ours.truncation_side)
        given = texts[0] if isinstance(texts[0], tuple) else (texts[0],)
        expected = theirs(*given, truncation=True, max_length=32)
        assert found.ids.tolist() == expected["input_ids"]


def test_an_unknown_side_is_an_error(tmp_path: Path) -> None:
    write_trunk(classifiers(1)[0], tmp_path)
    update(tmp_path / "tokenizer_config.json", truncation_side="middle")
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json: truncation_side is 'middle'"):
        Tokenizer.load(tmp_path)
