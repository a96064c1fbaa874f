"""Tokenizers of several families in folders of the hub's format, compared with transformers'."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

from atoll.text.tokenizer import Tokenizer

Json = Mapping[str, Any]
Core = RustTokenizer
TEXTS = (
    "Covid19 cases in Münster", "covid19 CASES <x>y [MASK] a", "Élan 你好 [SEP] <mask> b</s>c",
    "a <y> b", "<Y>a", "a", "x <x> <s> a",
)  # fmt: skip

# Letters in both cases, with and without marks, and pieces of words.
CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZéÉüÜ0123456789<>[]/你好"


def write_json(folder: Path, **files: Json) -> None:
    """One JSON file for every keyword."""
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


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


def tekken() -> Core:
    """As files of Mistral's tokenizer that older versions of transformers converted; as large."""
    core = roberta()
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}{1,3}|\s+|[^\s\p{L}\p{N}]+"), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    pieces = [*core.get_vocab(), "19", *(f"ĠĠĠĠ{i}" for i in range(100_000))]
    core.model = models.BPE({p: i for i, p in enumerate(pieces)}, [("1", "9"), ("i", "n")])
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
