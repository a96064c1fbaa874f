"""Keys of JSON files beside tokenizer.json: the ids are those of transformers' AutoTokenizer."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizer_folders import (
    TEXTS,
    Json,
    bert,
    check,
    folder_of,
    llama,
    roberta,
    starcoder,
    tekken,
    xlm_roberta,
)
from tokenizers import (
    Regex,
    normalizers,
)

from atoll.errors import ConfigError
from atoll.text.tokenizer import Tokenizer

BERT_KEYS: list[dict[str, Any]] = [
    {"do_lower_case": False}, {"do_lower_case": True}, {"do_lower_case": False,
    "strip_accents": True}, {"strip_accents": False}, {"tokenize_chinese_chars": False}, {},
]  # fmt: skip


@pytest.mark.parametrize("keys", BERT_KEYS, ids=str)
@pytest.mark.parametrize("lowercase", [True, False])
def test_keys_of_bert_win_over_the_files_normalizer(
    lowercase: bool, keys: Json, tmp_path: Path
) -> None:
    """do_lower_case beside a tokenizer.json that says otherwise was not heard."""
    core = bert(lowercase=lowercase, strip_accents=lowercase, handle_chinese_chars=lowercase)
    check(folder_of(core, "bert", tmp_path,
                    tokenizer_config={"tokenizer_class": "BertTokenizer", **keys}))  # fmt: skip


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "electra", "ernie"])
def test_bert_without_tokenizer_config_has_its_class_defaults(
    model_type: str, tmp_path: Path
) -> None:
    check(folder_of(bert(lowercase=False), model_type, tmp_path))


@pytest.mark.parametrize("named", ["PreTrainedTokenizerFast", "TokenizersBackend"])
def test_a_tokenizer_without_a_class_is_the_file(named: str, tmp_path: Path) -> None:
    config = {"tokenizer_class": named, "do_lower_case": True, "add_prefix_space": True}
    check(folder_of(bert(lowercase=False), "bert", tmp_path, tokenizer_config=config))


def test_a_normalizer_among_several_is_changed(tmp_path: Path) -> None:
    core = bert(lowercase=False)
    core.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex("Q+"), "q"), normalizers.BertNormalizer(lowercase=False)]
    )
    folder = folder_of(core, "bert", tmp_path, tokenizer_config={"do_lower_case": True})
    assert Tokenizer.load(folder).core.encode("Covid QQ").tokens == ["[CLS]", "covid", "q", "[SEP]"]


@pytest.mark.parametrize("is_prefixed", [True, False])
@pytest.mark.parametrize("keys", [{"add_prefix_space": True}, {"add_prefix_space": False}, {}],
                         ids=str)  # fmt: skip
def test_the_prefix_of_byte_level_tokenizers(keys: Json, is_prefixed: bool, tmp_path: Path) -> None:
    config = {"tokenizer_class": "RobertaTokenizer", **keys}
    check(folder_of(roberta(is_prefixed), "roberta", tmp_path, tokenizer_config=config))


def test_splits_before_the_bytes_stay(tmp_path: Path) -> None:
    config = {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": False}
    check(folder_of(starcoder(), "gpt_bigcode", tmp_path, tokenizer_config=config))


@pytest.mark.parametrize("kind", [xlm_roberta, llama])
def test_no_prefix_if_the_key_says_so(kind: Any, tmp_path: Path) -> None:
    model_type = "llama" if kind is llama else "xlm-roberta"
    name = "LlamaTokenizer" if kind is llama else "XLMRobertaTokenizer"
    config = {"tokenizer_class": name, "add_prefix_space": False, "legacy": False,
              "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}  # fmt: skip
    folder = folder_of(kind(), model_type, tmp_path, tokenizer_config=config)
    check(folder, ("a b", " a b", "b"))
    if kind is llama:
        ours = Tokenizer.load(folder)
        assert ours.decode(ours.encode(" a")) == " a", "the decoder takes no space away either"


@pytest.mark.parametrize(
    ("core", "model_type", "config"),
    [
        (xlm_roberta, "xlm-roberta", {}),
        (xlm_roberta, "xlm-roberta", {"tokenizer_class": "XLMRobertaTokenizerFast"}),
        (xlm_roberta, "camembert", {"tokenizer_class": "CamembertTokenizer"}),
        (llama, "llama", {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}),
        (llama, "llama", {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": False}),
        (llama, "llama", {"tokenizer_class": "LlamaTokenizer", "add_eos_token": True}),
        (roberta, "roberta", {"split_special_tokens": True}),
        (bert, "bert", {"split_special_tokens": True}),
    ],
)
def test_other_keys(core: Any, model_type: str, config: Json, tmp_path: Path) -> None:
    check(folder_of(core(), model_type, tmp_path, tokenizer_config=config), ("a Cases b", "b1"))
    if "split_special_tokens" in config:
        check(tmp_path, TEXTS[:2])


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"cls_token": "[BOS]", "sep_token": "[EOS]"}},
        {"special_tokens_map": {"cls_token": "[BOS]", "sep_token": "[EOS]"}},
        {"tokenizer_config": {"cls_token": "[CLS]", "sep_token": "[SEP]"},
         "special_tokens_map": {"cls_token": "[BOS]", "sep_token": "[EOS]"}},
        {"tokenizer_config": {"cls_token": "[CLS]", "sep_token": "[SEP]",
                              "added_tokens_decoder": {}},
         "special_tokens_map": {"cls_token": "[BOS]", "sep_token": "[EOS]"}},
    ],
)  # fmt: skip
def test_what_frames_a_text(files: dict[str, Json], tmp_path: Path) -> None:
    check(folder_of(bert(), "bert", tmp_path, **files))


def test_roberta_framed_by_other_tokens(tmp_path: Path) -> None:
    config = {"tokenizer_class": "RobertaTokenizer", "cls_token": "</s>", "sep_token": "<s>"}
    check(folder_of(roberta(), "roberta", tmp_path, tokenizer_config=config))


def test_mpnet_framed_by_other_tokens(tmp_path: Path) -> None:
    """Its words are BERT's, its frame is RoBERTa's: two tokens between the texts of a pair."""
    names = {"bos": "[BOS]", "cls": "[BOS]", "eos": "[EOS]", "sep": "[EOS]"}
    config = {f"{name}_token": token for name, token in names.items()}
    check(folder_of(bert(), "mpnet", tmp_path, tokenizer_config=config), ("a Cases b", "b1"))


def test_truncation_and_padding_of_the_file_are_left_to_the_limits(tmp_path: Path) -> None:
    core = bert()
    core.enable_truncation(4)
    core.enable_padding(length=8)
    folder = folder_of(core, "bert", tmp_path)
    check(folder)
    assert len(Tokenizer.load(folder).encode("Covid19 cases in a")) > 8


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"do_lower_case": "no"}, "do_lower_case is 'no'; expected true or false"),
        ({"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.T", None]}},
         "auto_map names the tokenizer .*own.T.*never run"),
        ({"cls_token": "[NOWHERE]", "sep_token": "[SEP]"}, r"has no tokens \['\[NOWHERE\]'\]"),
        ({"added_tokens_decoder": {"x": {"content": "a"}}}, "added_tokens_decoder: x is "),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_named(config: Json, message: str, tmp_path: Path) -> None:
    folder_of(bert(), "bert", tmp_path, tokenizer_config=config)
    with pytest.raises(ConfigError, match=message):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("version", "keys"),
    [("4.57.1", {}), ("4.57.1", {"fix_mistral_regex": False}),
     ("4.57.1", {"fix_mistral_regex": True}), ("5.0.0", {})],
)  # fmt: skip
def test_the_split_of_mistrals_texts(
    version: str, keys: Json, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong one is corrected if a key says so, as by transformers, and else told of."""
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **keys}
    folder = folder_of(tekken(), "mistral", tmp_path, tokenizer_config=config)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "mistral", "transformers_version": version})
    )
    check(folder, (*TEXTS, "x 19in a1 9 Covid19Ain"))
    assert ("another pattern" in caplog.text) == (not keys and version[0] == "4")


def test_a_split_that_is_not_there_is_not_corrected(tmp_path: Path) -> None:
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "fix_mistral_regex": True}
    core = tekken()
    core.pre_tokenizer = roberta().pre_tokenizer
    folder = folder_of(core, "mistral", tmp_path, tokenizer_config=config)
    with pytest.raises(ConfigError, match="fix_mistral_regex is true, and tokenizer.json does"):
        Tokenizer.load(folder)
