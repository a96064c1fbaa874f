"""Tokenizers as users have them: without tokenizer.json, or with files that disagree.

The .model files and ids.json beside them are sentencepiece 0.2.3's own, trained on these docs: see
their names for the layout. transformers is the reference for everything else.
"""

import json
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fake_backend  # noqa: F401  (stands in for Triton's own module)
import pytest
import transformers as hf
from tiny.tokenizer import write_tokenizer
from tokenizer_folders import Json, write_json
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as RustTokenizer

from atoll.errors import ConfigError, ValidationError
from atoll.serving.requests.validation import check_ids
from atoll.text.chat import ChatTemplate
from atoll.text.sentencepiece import convert
from atoll.text.tokenizer import Tokenizer

DATA = Path(__file__).parents[1] / "data" / "sentencepiece"
RECORDED = json.loads((DATA / "ids.json").read_text())
FILES = {
    "t5": "spiece.model", "mt5": "spiece.model", "llama": "tokenizer.model",
    "xlm-roberta": "sentencepiece.bpe.model",
}  # fmt: skip


def slow_folder(kind: str, folder: Path, tokenizer_config: Json, **files: Json) -> Path:
    """A checkpoint whose tokenizer is a sentencepiece model."""
    (folder / FILES[kind]).write_bytes((DATA / f"{kind}.model").read_bytes())
    write_json(
        folder, config={"model_type": kind}, tokenizer_config=tokenizer_config, **files
    )  # fmt: skip
    return folder


def added(text: str, **flags: bool) -> dict[str, Any]:
    usual = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    return {"content": text, **usual, "special": True, **flags}


@pytest.mark.parametrize("kind", FILES)
def test_ids_are_those_of_sentencepiece(kind: str, tmp_path: Path) -> None:
    extra = {"extra_ids": 0} if kind in ("t5", "mt5") else {}
    tokenizer = Tokenizer.load(slow_folder(kind, tmp_path, extra))
    for text, expected in zip(RECORDED["texts"], RECORDED["ids"][kind], strict=True):
        if "</s>" in text:
            continue  # a special token in a text is one here, and plain text to sentencepiece
        if kind == "xlm-roberta":  # one more special token in front; the unknown one moves
            expected = [index + 1 if index else 3 for index in expected]
        assert tokenizer.encode(text, add_special_tokens=False) == expected, text


@pytest.mark.parametrize(
    ("kind", "config", "expected"),
    [
        ("t5", {}, "{} </s>"),
        ("llama", {}, "<s> {}"),
        ("llama", {"add_bos_token": False}, "{}"),
        ("llama", {"add_bos_token": True, "add_eos_token": True}, "<s> {} </s>"),
        ("xlm-roberta", {}, "<s> {} </s>"),
    ],
)
def test_special_tokens_around_a_text(
    kind: str, config: Json, expected: str, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.load(slow_folder(kind, tmp_path, config))
    plain = tokenizer.core.encode("Hello world", add_special_tokens=False).tokens
    tokens = tokenizer.core.encode("Hello world").tokens
    assert tokens == expected.format(" ".join(plain)).split()
    assert tokenizer.decode(tokenizer.encode("Hello world")) == "Hello world"
    assert tokenizer.special_tokens["eos_token"] == "</s>"
    assert tokenizer.eos_token_ids == {tokenizer.core.token_to_id("</s>")}


def test_sentinels_of_t5() -> None:
    core, _ = convert(DATA / "t5.model", "t5", {"extra_ids": 10})
    tokens = core.encode("Fill <extra_id_0> and<extra_id_9>.", add_special_tokens=False).tokens
    assert tokens == [*"▁Fill", "<extra_id_0>", "▁", "and", "<extra_id_9>", "▁", "."]
    assert core.token_to_id("<extra_id_9>") == 320 and core.token_to_id("<extra_id_0>") == 329


def test_camembert_has_placeholders_before_the_files_pieces() -> None:
    core, special = convert(DATA / "xlm-roberta.model", "camembert", {})
    assert [core.id_to_token(i) for i in (1, 3, 5, 6)] == ["<pad>", "<unk>", "<s>", "</s>"]
    assert core.encode("a", "a").tokens == ["<s>", "▁a", "</s>", "</s>", "▁a", "</s>"]
    assert core.token_to_id(special["mask_token"]) == core.get_vocab_size() - 1


@pytest.mark.parametrize("legacy", [True, False])
def test_space_after_a_special_token(legacy: bool, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(slow_folder("llama", tmp_path, {"legacy": legacy}))
    tokens = tokenizer.core.encode("</s>w", add_special_tokens=False).tokens
    assert tokens == ["</s>", "▁w" if legacy else "w"]


def test_tokens_added_to_a_sentencepiece_model(tmp_path: Path) -> None:
    decoder = {"600": added("<|im_start|>"), "601": added("<tool>", special=False)}
    tokenizer = Tokenizer.load(slow_folder("llama", tmp_path, {"added_tokens_decoder": decoder}))
    ids = tokenizer.encode("<|im_start|><tool></s>", add_special_tokens=False)
    assert ids == [600, 601, 2] and tokenizer.decode(ids) == "<tool>"


def test_old_list_of_added_tokens(tmp_path: Path) -> None:
    names = {"pad_token": "<pad>"}
    folder = slow_folder("llama", tmp_path, names, added_tokens={"<x>": 601, "<pad>": 600})
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.encode("<pad><x>", add_special_tokens=False) == [600, 601]
    assert tokenizer.decode([600, 601]) == "<x>"


def test_added_tokens_with_gaps_are_refused(tmp_path: Path) -> None:
    folder = slow_folder("llama", tmp_path, {"added_tokens_decoder": {"700": added("<x>")}})
    with pytest.raises(ConfigError, match="'<x>': 700, not 600"):
        Tokenizer.load(folder)


def byte_level(folder: Path) -> RustTokenizer:
    """vocab.json and merges.txt of a small byte-level BPE; returns what they stand for."""
    core = RustTokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(RECORDED["texts"] * 3, trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    ))  # fmt: skip
    core.model.save(str(folder))
    return core


@pytest.mark.parametrize(
    ("model_type", "config", "before", "after"),
    [
        # facebook/opt-125m has no tokenizer.json, and begins texts with </s>.
        ("opt", {"add_bos_token": True, "bos_token": "</s>", "tokenizer_class": "GPT2Tokenizer",
                 "eos_token": "</s>", "unk_token": "</s>"}, [2], []),
        ("gpt2", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, [], []),
        ("roberta", {}, [0], [2]),
    ],
)  # fmt: skip
def test_vocabulary_and_merges(
    model_type: str, config: Json, before: list[int], after: list[int], tmp_path: Path
) -> None:
    core = byte_level(tmp_path)
    write_json(tmp_path, config={"model_type": model_type}, tokenizer_config=config)
    tokenizer = Tokenizer.load(tmp_path)
    for text in RECORDED["texts"]:
        expected = core.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text) == [*before, *expected, *after], text
    # What only the tokenizer's class knows is known too.
    assert tokenizer.special_tokens["eos_token"] == "</s>" and tokenizer.eos_token_ids == {2}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there is no tokenizer.json, and none of tokenizer.model, .*: copy tokenizer.json"),
        ({"vocab.json": "{}"}, "transformers cannot convert vocab.json .*save_pretrained"),
        ({"tokenizer.json": "{"}, r"tokenizer\.json: cannot be read"),
        ({"tokenizer.model": "words"}, r"tokenizer\.model: is no sentencepiece model"),
        ({"tokenizer.model": ""}, r"tokenizer\.model: is no sentencepiece model"),
    ],
)
def test_what_is_missing_is_named(files: dict[str, str], message: str, tmp_path: Path) -> None:
    write_json(tmp_path, config={"model_type": "llama"})
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        Tokenizer.load(tmp_path)


FAST = {
    "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>",
    "tokenizer_class": "PreTrainedTokenizerFast",
}  # fmt: skip
CASES: Mapping[str, Json] = {
    "as it is": {},
    "another flag": {"added_tokens_decoder": {"95": added("<|a|>")}},
    "a new token": {"added_tokens_decoder": {"95": added("<|a|>"), "96": added("<|b|>")}},
    "another id": {"added_tokens_decoder": {"99": added("<|b|>")}},
    "additional": {"additional_special_tokens": ["<|a|>", "<|b|>"]},
    "extra": {"extra_special_tokens": ["<|b|>"]},
    "a pad of its own": {"pad_token": "<|b|>"},
    "add_bos_token false": {"add_bos_token": False},
    "add_eos_token": {"add_bos_token": True, "add_eos_token": True},
}


@pytest.mark.parametrize("name", CASES)
def test_tokenizer_config_beside_tokenizer_json(name: str, tmp_path: Path) -> None:
    """Tokens that only tokenizer_config.json names were text."""
    write_tokenizer(tmp_path)
    core = RustTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    core.add_tokens([AddedToken("<|a|>", normalized=False)])
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
    )
    core.save(str(tmp_path / "tokenizer.json"))
    write_json(tmp_path, config={"model_type": "llama"}, tokenizer_config={**FAST, **CASES[name]})
    reference, ours = hf.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    text = "a<|a|>b<|b|>c</s>"
    ids = reference(text)["input_ids"]
    assert ours.encode(text) == ids
    for skip in (True, False):
        assert ours.decode(ids, skip) == reference.decode(ids, skip_special_tokens=skip)


def test_tokens_beyond_the_vocabulary(tmp_path: Path) -> None:
    """[PAD] of a model without an embedding for it: not added, and refused if tokenizer.json has
    it."""
    write_tokenizer(tmp_path)
    config = {**FAST, "pad_token": "[PAD]"}
    write_json(tmp_path, config={"vocab_size": 95}, tokenizer_config=config)
    assert max(Tokenizer.load(tmp_path).encode("a[PAD]")) < 95
    core = RustTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    core.add_special_tokens(["[PAD]"])
    core.save(str(tmp_path / "tokenizer.json"))
    ids = Tokenizer.load(tmp_path).encode("a[PAD]")
    with pytest.raises(ValidationError, match="token 1 of text_input is 95; the vocabulary has 95"):
        check_ids("text_input", ids, 95)
    with pytest.raises(ValidationError, match=r"input_ids\[0\] is -1"):
        check_ids("input_ids", [-1], 95)


MESSAGES = [{"role": "user", "content": "hi"}]
PLAIN, TOOLS = "{{ messages[0].content }} to {{ eos_token }}", "{{ tools | length }} tools"
BOTH = [{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": TOOLS}]


@pytest.mark.parametrize("where", ["list", "object", "additional_chat_templates", "chat_templates"])
def test_named_chat_templates(where: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    config: dict[str, Any] = dict(FAST)
    if where == "list":
        config["chat_template"] = BOTH
    elif where == "object":
        config["chat_template"] = {"default": PLAIN, "tool_use": TOOLS}
    else:
        config["chat_template"] = "an older one"
        (tmp_path / where).mkdir()
        (tmp_path / where / "tool_use.jinja").write_text(TOOLS)
        (tmp_path / "chat_template.jinja").write_text(PLAIN)
    write_json(tmp_path, config={"model_type": "llama"}, tokenizer_config=config)
    template = ChatTemplate.load(tmp_path, Tokenizer.load(tmp_path))
    assert template is not None
    tools = [{"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}]
    assert template.render(MESSAGES) == "hi to </s>"
    assert template.render(MESSAGES, tools) == "1 tools"
    if where in ("list", "additional_chat_templates"):
        reference = hf.AutoTokenizer.from_pretrained(tmp_path)
        for given in (None, tools):
            expected = reference.apply_chat_template(MESSAGES, tools=given, tokenize=False)
            assert template.render(MESSAGES, given) == expected


def test_chat_template_of_another_form_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    write_json(tmp_path, tokenizer_config={"chat_template": [{"template": PLAIN}]})
    with pytest.raises(ConfigError, match="chat_template"):
        ChatTemplate.load(tmp_path, Tokenizer.load(tmp_path))


def test_siglip_reads_texts_without_punctuation() -> None:
    """``canonicalize_text`` of transformers' SiglipTokenizer, which needs the library itself."""
    ours, plain = (convert(DATA / "t5.model", kind, {}) for kind in ("siglip", "t5"))
    for text in ("A  Photo, of!\tan\nAtoll? ", "don't (well-known) _x_ [1]", "Ä é 東京...", "a"):
        bare = text.lower().translate(str.maketrans("", "", string.punctuation))
        bare = re.sub(r"\s+", " ", bare).strip()
        assert ours.core.encode(text).ids == plain.core.encode(bare).ids, text
    assert ours.special_tokens["pad_token"] == "</s>"
