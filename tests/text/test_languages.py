"""Languages of translators: framing as transformers does it, codes that are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizer_folders import write_json
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer
from transformers import MBart50Tokenizer, MBartTokenizer, NllbTokenizer

from atoll.errors import ConfigError, ValidationError
from atoll.text.languages import MBART, MBART_50, Languages
from atoll.text.sentencepiece import convert
from atoll.text.tokenizer import Tokenizer

DATA = Path(__file__).parents[1] / "data" / "sentencepiece"
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "▁a", "▁b"]
NLLB = ["eng_Latn", "fra_Latn", "fry_Latn", "deu_Latn"]


def nllb(**options: Any) -> Any:
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    return NllbTokenizer(vocabulary, [], additional_special_tokens=NLLB, **options)


def unigrams(kind: Any, codes: tuple[str, ...]) -> Any:
    return kind([(word, -1.0) for word in (*WORDS, *codes, "<mask>")])


THEIRS = {
    "NLLB": lambda: nllb(),
    "NLLB's first release": lambda: nllb(legacy_behaviour=True),
    "NLLB from another language": lambda: nllb(src_lang="deu_Latn"),
    "mBART": lambda: unigrams(MBartTokenizer, MBART),
    "mBART-50": lambda: unigrams(MBart50Tokenizer, MBART_50),
}


def loaded(folder: Path, size: int) -> Tokenizer:
    write_json(folder, config={"model_type": "m2m_100", "vocab_size": size})
    return Tokenizer.load(folder)


@pytest.mark.parametrize("name", THEIRS)
def test_texts_are_framed_as_in_transformers(name: str, tmp_path: Path) -> None:
    theirs = THEIRS[name]()
    theirs.save_pretrained(tmp_path)
    ours = loaded(tmp_path, len(theirs))
    languages = ours.languages
    assert languages is not None
    assert ours.encode("a b") == theirs("a b").input_ids
    plain = ours.encode("a b", add_special_tokens=False)
    for code in sorted(languages.ids)[:3]:
        theirs.src_lang = code
        assert languages.framed(plain, languages.id_of("src_lang", code)) == theirs("a b").input_ids
        assert languages.id_of("tgt_lang", code) == theirs.convert_tokens_to_ids(code)
    assert languages.starts == (name == "mBART")
    assert ours.decode([languages.ids[languages.source], *plain]) == "a b"


def test_codes_of_m2m100_are_within_their_tokens(tmp_path: Path) -> None:
    core = RustTokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens([AddedToken(f"__{code}__") for code in ("en", "fr", "ast")])
    core.save(str(tmp_path / "tokenizer.json"))
    write_json(tmp_path, tokenizer_config={"eos_token": "</s>"})
    found = loaded(tmp_path, 16)
    assert found.languages is not None
    assert found.languages.ids == {"en": 9, "fr": 10, "ast": 11}
    assert found.encode("a") == [9, 5, 2]


def test_unknown_codes_are_refused_with_near_ones(tmp_path: Path) -> None:
    theirs = nllb()
    theirs.save_pretrained(tmp_path)
    languages = loaded(tmp_path, len(theirs)).languages
    assert languages is not None
    with pytest.raises(ValidationError, match=r"tgt_lang is 'fr', which is none of the model's 4"
                       r" languages; near it: fra_Latn, fry_Latn"):  # fmt: skip
        languages.id_of("tgt_lang", "fr")
    with pytest.raises(ValidationError, match="src_lang is 'xx', .*; one is eng_Latn"):
        languages.id_of("src_lang", "xx")


def test_a_default_that_is_no_language_is_refused(tmp_path: Path) -> None:
    theirs = nllb()
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "src_lang": "en"}))
    with pytest.raises(ConfigError, match="src_lang is 'en' .*4 languages the first are deu_Latn"):
        loaded(tmp_path, len(theirs))


@pytest.mark.parametrize(("kind", "codes"), [("mbart", MBART), ("mbart-50", MBART_50)])
def test_sentencepiece_models_have_the_languages_behind(kind: str, codes: tuple[str, ...]) -> None:
    path = DATA / "xlm-roberta.model"
    (core, special), (plain, _) = (convert(path, name, {}) for name in (kind, "xlm-roberta"))
    count = plain.get_vocab_size() - 1
    assert [core.id_to_token(i) for i in range(count)] == [
        plain.id_to_token(i) for i in range(count)
    ]
    assert [core.id_to_token(count + i) for i in range(len(codes))] == list(codes)
    assert core.token_to_id(special["mask_token"]) == count + len(codes)
    found = Languages.read(core, {}, {"model_type": "mbart"}, "</s>")
    assert found is not None and list(found.ids) == list(codes)


def test_the_lists_are_transformers() -> None:
    from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES as MBART_CODES
    from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES as CODES_50

    assert (list(MBART), list(MBART_50)) == (MBART_CODES, CODES_50)
