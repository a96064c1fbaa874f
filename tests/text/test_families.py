"""Galactica's split sequences, SantaCoder's tokens, and prompts with a hole in the middle."""

import json
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from atoll.text import model_quirks
from atoll.text.tokenizer import Tokenizer as OurTokenizer

MARK = "SPL1T-TH1S-Pl3A5E"
TEXT = ["def f(x):\n    return x + 1\n", "C(C(=O)O)N is alanine, MKTAYIAK a protein"] * 4


def _byte_level(folder: Path, special: list[str], architecture: str) -> OurTokenizer:
    """A trained byte-level BPE with Galactica's split, saved as a checkpoint's files."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(MARK), "removed"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet),
    )
    core.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    return OurTokenizer.load(folder)


def test_galactica_marks_every_character() -> None:
    text = "See [START_SMILES]C(=O)[END_SMILES] and [START_AMINO]MK[END_AMINO]."
    assert model_quirks.split_sequences(text) == (
        f"See [START_SMILES]{MARK}C{MARK}({MARK}={MARK}O{MARK}){MARK}[END_SMILES]"
        f" and [START_AMINO]{MARK}M{MARK}K{MARK}[END_AMINO]."
    )


@pytest.mark.parametrize(
    "text",
    ["plain text", "[START_DNA]ACGT", "[START_DNA]ACGT[END_AMINO]", "[START_REF]A[END_REF]"],
)
def test_galactica_leaves_the_rest_alone(text: str) -> None:
    assert model_quirks.split_sequences(text) == text


def test_galactica_tokens_are_single_characters(tmp_path: Path) -> None:
    special = [f"[{s}_{k}]" for s in ("START", "END") for k in ("DNA", "SMILES", "AMINO")]
    tokenizer = _byte_level(tmp_path, special, "OPTForCausalLM")
    ids = tokenizer.encode("[START_AMINO]MKTAYIAK[END_AMINO]")
    tokens = [tokenizer.core.id_to_token(i) for i in ids]
    assert tokens == ["[START_AMINO]", *"MKTAYIAK", "[END_AMINO]"]
    # The same letters outside of a sequence are merged.
    assert len(tokenizer.encode("MKTAYIAK")) < 8


def test_santacoder_gets_its_tokens_after_the_vocabulary(tmp_path: Path) -> None:
    tokenizer = _byte_level(tmp_path, [], "GPT2LMHeadCustomModel")
    names = ["<|endoftext|>", "<fim-prefix>", "<fim-middle>", "<fim-suffix>", "<fim-pad>"]
    size = tokenizer.core.get_vocab_size(with_added_tokens=False)
    ids = [tokenizer.core.token_to_id(name) for name in names]
    assert ids == list(range(size, size + 5))
    prompt = model_quirks.fill_in_the_middle(tokenizer.core, "def f(", "return x")
    assert prompt == "<fim-prefix>def f(<fim-suffix>return x<fim-middle>"
    found = tokenizer.encode(prompt)
    assert [i for i in found if i >= size] == [ids[1], ids[3], ids[2]]


def test_santacoder_keeps_tokens_that_are_there(tmp_path: Path) -> None:
    special = ["<fim-prefix>", "<fim-middle>", "<fim-suffix>", "<fim-pad>", "<|endoftext|>"]
    tokenizer = _byte_level(tmp_path, special, "GPT2LMHeadCustomModel")
    assert [tokenizer.core.token_to_id(name) for name in special] == list(range(5))


def test_starcoder_prompt_and_models_without_a_middle(tmp_path: Path) -> None:
    special = ["<fim_prefix>", "<fim_middle>", "<fim_suffix>"]
    tokenizer = _byte_level(tmp_path, special, "GPTBigCodeForCausalLM")
    prompt = model_quirks.fill_in_the_middle(tokenizer.core, "a", "b")
    assert prompt == "<fim_prefix>a<fim_suffix>b<fim_middle>"
    plain = _byte_level(tmp_path, [], "LlamaForCausalLM")
    assert model_quirks.fill_in_the_middle(plain.core, "a", "b") is None
