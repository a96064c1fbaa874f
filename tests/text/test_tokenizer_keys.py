"""Keys of JSON files beside tokenizer.json: the ids are those of transformers' AutoTokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers import Tokenizer as RustTokenizer

from atoll.errors import ConfigError
from atoll.text.tokenizer import Tokenizer

Json = Mapping[str, Any]
Core = RustTokenizer
TEXTS = (
    "Covid19 cases in Münster", "covid19 CASES <x>y [MASK] a", "Élan 你好 [SEP] <mask> b</s>c",
    "a <y> b", "<Y>a", "a", "x <x> <s> a",
)  # fmt: skip
# Letters in both cases, with and without marks, and pieces of words.
CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZéÉüÜ0123456789<>[]/你好"


def bert(**flags: Any) -> Core:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[BOS]", "[EOS]", *CHARACTERS]
    pieces += [f"##{character}" for character in CHARACTERS] + ["cases", "Cases", "covid", "Covid"]
    core = RustTokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(**flags)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )  # fmt: skip
    core.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return core


def roberta(is_prefixed: bool = False) -> Core:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = RustTokenizer(
        models.BPE({p: i for i, p in enumerate([*pieces, "<mask>", "Ġa", "in"])},
                   [("Ġ", "a"), ("i", "n")])
    )  # fmt: skip
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=is_prefixed)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    core.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    core.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    return core


def xlm_roberta() -> Core:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *CHARACTERS, "▁a", "<mask>"]
    core = RustTokenizer(models.Unigram([(p, -float(i)) for i, p in enumerate(pieces)], 3))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    core.decoder = decoders.Metaspace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )  # fmt: skip
    core.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    core.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    return core


def llama() -> Core:
    """As Llama 2's file is: the space in front comes from the normalizer."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *CHARACTERS, "▁a"]
    core = RustTokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, [("▁", "a")], unk_token="<unk>",
                   fuse_unk=True, byte_fallback=True)
    )  # fmt: skip
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    core.add_special_tokens(["<unk>", "<s>", "</s>"])
    return core


def starcoder() -> Core:
    """A split of its own before the bytes."""
    core = roberta()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )  # fmt: skip
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    return core


def with_token(core: Core, text: str, **flags: bool) -> Core:
    core.add_tokens([AddedToken(text, **flags)])
    return core


def folder_of(core: Core, model_type: str, folder: Path, **files: Json | None) -> Path:
    core.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    for name, content in files.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def check(folder: Path, texts: tuple[str, ...] = TEXTS) -> None:
    reference, ours = hf.AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    for text in texts:
        assert ours.encode(text) == reference(text)["input_ids"], text
        pair = ours.core.encode(text, "a").ids
        assert pair == reference(text, "a")["input_ids"], text


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


def test_bert_without_tokenizer_config_has_its_class_defaults(tmp_path: Path) -> None:
    check(folder_of(bert(lowercase=False), "bert", tmp_path))


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


ADDED: dict[str, dict[str, Json]] = {
    "old list": {"added_tokens": {"covid19": 300}},
    "old list of a special token": {
        "added_tokens": {"<x>": 300}, "tokenizer_config": {"pad_token": "<x>"},
    },
    "extra": {"tokenizer_config": {"extra_special_tokens": ["<x>", "<y>"]}},
    "extra with names": {"tokenizer_config": {"extra_special_tokens": {"x_token": "<x>"}}},
    "additional, in the map": {
        "special_tokens_map": {"additional_special_tokens": ["<x>"]},
    },
    "with flags, in the map": {
        "special_tokens_map": {
            "mask_token": {"content": "<x>", "lstrip": True, "rstrip": True, "normalized": False,
                           "single_word": False},
        },
    },
    "flags": {
        "tokenizer_config": {"added_tokens_decoder": {
            "300": {"content": "<x>", "lstrip": True, "rstrip": True, "normalized": False,
                    "single_word": False, "special": False},
            "301": {"content": "<Y>", "lstrip": False, "rstrip": False, "normalized": True,
                    "single_word": True, "special": False},
        }},
    },
}  # fmt: skip


@pytest.mark.parametrize("case", ADDED)
@pytest.mark.parametrize("kind", ["bert", "bert without a class", "roberta"])
def test_tokens_that_other_files_add(kind: str, case: str, tmp_path: Path) -> None:
    core = roberta() if kind == "roberta" else bert()
    size = core.get_vocab_size()
    text = json.dumps(ADDED[case]).replace('"300"', f'"{size}"').replace('"301"', f'"{size + 1}"')
    files = json.loads(text.replace(": 300", f": {size}"))
    if kind == "bert without a class":
        files["tokenizer_config"] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **files.get("tokenizer_config", {}),
        }
    # transformers 5 forgets the flags of the file's <mask> beside added_tokens_decoder.
    texts = [text for text in TEXTS if (kind, case) != ("roberta", "flags") or "<mask>" not in text]
    check(folder_of(core, kind.split()[0], tmp_path, **files), tuple(texts))


@pytest.mark.parametrize("is_normalized", [True, False])
def test_the_files_own_token_wins_over_the_old_list(is_normalized: bool, tmp_path: Path) -> None:
    """added_tokens.json has no flags: those of tokenizer.json were lost, and "Covid19" was text."""
    core = with_token(bert(), "covid19", normalized=is_normalized)
    index = core.token_to_id("covid19")
    folder = folder_of(core, "bert", tmp_path, added_tokens={"covid19": index})
    check(folder)
    assert (index in Tokenizer.load(folder).encode("Covid19 cases")) == is_normalized


def test_special_tokens_that_only_the_class_knows(tmp_path: Path) -> None:
    """A vocabulary with [MASK], and no file that says what it is: the text "[MASK]" was split."""
    core = RustTokenizer.from_str(bert().to_str())
    state = json.loads(core.to_str())
    state["added_tokens"] = []
    folder = folder_of(RustTokenizer.from_str(json.dumps(state)), "bert", tmp_path)
    check(folder)
    assert Tokenizer.load(folder).core.encode("[MASK]").tokens == ["[CLS]", "[MASK]", "[SEP]"]


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


UNKNOWN = "a \u2603 b \u00a3 cases"


@pytest.mark.parametrize("files", [
    {"tokenizer_config": {"unk_token": "[PAD]"}},
    {"special_tokens_map": {"unk_token": "[BOS]"}},
    {"tokenizer_config": {"unk_token": {"content": "[NEW]"}}},
    {"tokenizer_config": {"unk_token": "[UNK]"}, "special_tokens_map": {"unk_token": "[PAD]"}},
])  # fmt: skip
def test_berts_unknown_token_is_named_alike(files: dict[str, Any], tmp_path: Path) -> None:
    """transformers 5 takes the key beside tokenizer.json, 4 the file's own: other ids."""
    folder = folder_of(bert(), "bert", tmp_path, **files)
    with pytest.raises(ConfigError, match=r"model.unk_token is '\[UNK\]', but .* unk_token '\["):
        Tokenizer.load(folder)


@pytest.mark.parametrize(
    ("kind", "model_type", "config"),
    [
        (bert, "bert", {"tokenizer_class": "BertTokenizer", "unk_token": "[UNK]"}),
        (bert, "bert", {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[BOS]"}),
        (roberta, "roberta", {"tokenizer_class": "RobertaTokenizer", "unk_token": "<pad>"}),
        (xlm_roberta, "xlm-roberta", {"tokenizer_class": "XLMRobertaTokenizer",
                                      "unk_token": "<pad>"}),
        (llama, "llama", {"tokenizer_class": "LlamaTokenizer", "unk_token": "</s>"}),
        (llama, "llama", {"tokenizer_class": "LlamaTokenizer", "unk_token": "[NEW]"}),
    ],
)  # fmt: skip
def test_other_unknown_tokens_are_the_files(
    kind: Any, model_type: str, config: Json, tmp_path: Path
) -> None:
    more = {"unk_token": "<s>"} if kind is not bert else {}
    for files in ({}, {"special_tokens_map": more}):
        check(folder_of(kind(), model_type, tmp_path, tokenizer_config=config, **files), (UNKNOWN,))
