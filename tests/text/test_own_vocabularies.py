"""Marian's and M2M100's tokenizers beside transformers', whose files are read: texts of every kind,
decoded at once and token by token, and files that are damaged."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tiny.marian_files import MARIAN_LANGUAGES, write_m2m100_files, write_marian_files
from transformers import M2M100Tokenizer, MarianTokenizer
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

from atoll.errors import ConfigError
from atoll.text.answer import AnswerText
from atoll.text.detokenizer import Detokenizer
from atoll.text.languages import M2M100, WMT_21
from atoll.text.stop_strings import StopStrings
from atoll.text.tokenizer import Tokenizer

TEXTS = (
    "Hello world", "  leading and   many  spaces  ", "", "   ", "tab\tnew\nline\r\n", "Größe",
    "１２３ ＡＢＣ ｆｕｌｌｗｉｄｔｈ", "12,345.67 and 1e-9", "😀 👩‍👩‍👧 🇩🇪", "日本", "ß",
    "日本 東京 x日本",
    "a</s>b", "<pad> x <unk>", "<s> y", "__en__ hi __fr__", "\u200b zero\u200dwidth",
    "é and e\u0301", "\u00a0no break\u3000wide", "ﬁ ① ½ ㎏", "\u0000 \u0001 \ue000", "▁ ▁▁x",
    ">>deu<< Hello", ">>fra<<Bonjour >>deu<<", ">>xyz<< x", ">> none", "a >>deu<< b",
    "</s>>>deu<< b", "＞＞deu＜＜ ＜/s＞", "xx" * 500, "中" * 300, "the cat sat. " * 100,
)  # fmt: skip


def marian(folder: Path, has_two: bool = False, cleans_up: bool = False) -> Any:
    sizes = write_marian_files(folder, has_two=has_two)
    if cleans_up:
        path = folder / "tokenizer_config.json"
        config = {**json.loads(path.read_text()), "clean_up_tokenization_spaces": True}
        path.write_text(json.dumps(config))
    (folder / "config.json").write_text(
        json.dumps({"model_type": "marian", "vocab_size": sizes[0]})
    )
    return MarianTokenizer.from_pretrained(folder)


def m2m100(folder: Path) -> Any:
    size = write_m2m100_files(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "m2m_100", "vocab_size": size}))
    return M2M100Tokenizer.from_pretrained(folder)


def saved_again(folder: Path) -> Any:
    m2m100(folder).save_pretrained(folder)
    return M2M100Tokenizer.from_pretrained(folder)


THEIRS = {
    "Marian": marian,
    "Marian cleaned up": lambda folder: marian(folder, cleans_up=True),
    "two vocabularies": lambda folder: marian(folder, True),
    "M2M100": m2m100,
    "M2M100 saved again": saved_again,
}


@pytest.fixture(scope="module", params=THEIRS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Ours and transformers'."""
    folder = tmp_path_factory.mktemp("tokenizer")
    theirs = THEIRS[request.param](folder)
    return Tokenizer.load(folder), theirs


@pytest.mark.parametrize("special", [True, False])
def test_texts_have_the_same_tokens(pair: tuple[Tokenizer, Any], special: bool) -> None:
    ours, theirs = pair
    for text in TEXTS:
        expected = theirs(text, add_special_tokens=special).input_ids
        assert ours.encode(text, add_special_tokens=special) == expected, text
        found = ours.shares(text, special)
        assert found is not None and "".join(found[1]) == (text if text.strip() else "")


def test_ids_have_the_same_text_at_once_and_one_by_one(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    pick = random.Random(1)
    for _ in range(300):
        # The last is Marian's padding token, which transformers shows where there are two.
        ids = [pick.randrange(len(theirs.decoder) - 1) for _ in range(pick.randrange(1, 14))]
        expected = theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids) == expected
        answer = AnswerText(Detokenizer(ours), StopStrings(()), ours.cleans_up, ours.trims)
        parts = [part for token_id in ids for part in answer.push(token_id)] + answer.finish()
        assert (len(parts), "".join(parts)) == (len(ids), expected)


def test_languages(tmp_path: Path) -> None:
    assert (list(M2M100), list(WMT_21)) == tuple(FAIRSEQ_LANGUAGE_CODES.values())
    theirs = m2m100(tmp_path)
    ours = Tokenizer.load(tmp_path)
    assert ours.languages is not None and set(ours.languages.ids) == set(M2M100)
    theirs.src_lang = "fr"
    french = ours.languages.id_of("src_lang", "fr")
    assert ours.languages.framed(ours.encode("a b", False), french) == theirs("a b").input_ids
    theirs = marian(tmp_path)
    ours = Tokenizer.load(tmp_path)
    assert ours.languages is not None and set(ours.languages.ids) == set(MARIAN_LANGUAGES)
    german = ours.languages.id_of("tgt_lang", "deu")
    expected = theirs(">>deu<< a b").input_ids
    assert ours.languages.framed(ours.encode("a b", False), german) == expected
    marian(tmp_path, has_two=True)
    assert Tokenizer.load(tmp_path).languages is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", "{", "vocab.json: cannot be read"),
        ("vocab.json", "[]", "vocab.json: expected an object of tokens"),
        ("vocab.json", '{"</s>": 0, "<unk>": 1, "<pad>": 3}', "expected ids from 0 to 2"),
        ("vocab.json", '{"</s>": 0, "<unk>": 1}', "vocab.json lacks '<pad>'"),
        ("source.spm", "no model", "source.spm: is no sentencepiece model"),
        ("tokenizer_config.json", '{"separate_vocabs": true}', "target_vocab.json: cannot be read"),
    ],
)
def test_damaged_files_are_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    marian(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        Tokenizer.load(tmp_path)
