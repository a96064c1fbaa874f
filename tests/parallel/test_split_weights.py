"""Weights that a rank reads in part: quantised ones, adapters, vocabularies of any size."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from adapters import save_adapter
from ranks import Job, Ranks, Result, compute
from tiny.checkpoint import Variant, write
from tiny.decoders import DECODERS
from tiny.gguf_files import FAMILIES
from tiny.gguf_writing import write_gguf
from tiny.llamas import VOCAB
from tiny.quantize import Packing, quantized_checkpoints

from atoll.weights.gguf.convert import prepare

BY_NAME = {variant.name: variant for variant in DECODERS}
_IDS = torch.randint(3, VOCAB, (26,), generator=torch.Generator().manual_seed(5)).tolist()
TEXTS = {"a": _IDS[:14], "b": _IDS[14:]}
ACT_ORDER, IN_ORDER = Packing(), Packing(act_order=False)
# Groups that the ranks' parts of 96 inputs cut through.
WIDE = Packing(group_size=32, act_order=False)


def _assert_same(found: list[Result], alone: Result, tolerance: float = 1e-5) -> None:
    for result in found:
        for name, logits in alone.logits.items():
            scale = max(1.0, float(logits.std()))
            np.testing.assert_allclose(
                result.logits[name], logits, rtol=0, atol=tolerance * scale, err_msg=name
            )


@pytest.mark.parametrize(
    ("name", "packing"),
    [
        ("llama", ACT_ORDER), ("llama", IN_ORDER), ("llama", WIDE), ("llama", Packing(bits=3)),
        ("llama", Packing(bits=8)), ("llama", Packing(group_size=-1, act_order=False)),
        ("llama", Packing("awq")), ("llama", Packing("awq", group_size=32)),
        ("llama-biases", ACT_ORDER), ("mixtral", ACT_ORDER), ("mixtral", Packing("awq")),
        # Rows in another order in the file, and inputs that AWQ divides.
        ("gpt-neox", ACT_ORDER), ("gpt-neox", Packing("awq")), ("falcon-40b", Packing("awq")),
        ("llama", Packing("fp8", group_size=32)),
        ("starcoder", ACT_ORDER), ("starcoder", Packing("awq")), ("mpt", Packing("awq")),
    ],
)  # fmt: skip
def test_quantised_checkpoints(name: str, packing: Packing, tmp_path: Path, ranks: Ranks) -> None:
    packed, dense = quantized_checkpoints(BY_NAME[name], packing, tmp_path)
    alone = compute(Job(dense, TEXTS))
    # Of four ranks two have the same key-value head, whose rows are read twice.
    for size in (2, 4):
        _assert_same(ranks.run(Job(packed, TEXTS), size), alone)


def test_a_part_that_is_not_quantised(tmp_path: Path, ranks: Ranks) -> None:
    packed, dense = quantized_checkpoints(BY_NAME["llama"], Packing(), tmp_path, "v_proj")
    _assert_same(ranks.run(Job(packed, TEXTS), 2), compute(Job(dense, TEXTS)))


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("name", ["llama", "mixtral", "bloom"])
def test_quantised_at_load(name: str, scheme: str, tmp_path: Path, ranks: Ranks) -> None:
    """Scales come from each rank's own part: the error is the scheme's, though not its numbers."""
    write(BY_NAME[name], tmp_path)
    job = Job(tmp_path, TEXTS)
    exact, alone = compute(job), compute(replace(job, scheme=scheme))
    for found in ranks.run(replace(job, scheme=scheme), 2):
        assert 0 < _error(found, exact) <= 1.5 * _error(alone, exact)


def _error(found: Result, exact: Result) -> float:
    squares = [(found.logits[name] - exact.logits[name]) ** 2 for name in exact.logits]
    return float(np.concatenate(squares).mean() ** 0.5)


def test_bfloat16_is_as_close_as_one_rank(tmp_path: Path, ranks: Ranks) -> None:
    write(BY_NAME["llama"], tmp_path)
    job = Job(tmp_path, TEXTS)
    exact, half = compute(job), replace(job, dtype=torch.bfloat16)
    alone = compute(half)
    for found in ranks.run(half, 2):
        assert 0 < _error(found, exact) <= 1.5 * _error(alone, exact)


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("llama", ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]),
        ("llama-biases", ["k_proj", "up_proj", "down_proj"]),
        ("qwen2", ["q_proj", "v_proj", "o_proj", "gate_proj"]),
        ("gpt-oss-dense", ["q_proj", "v_proj", "o_proj"]),
        ("bloom", ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]),
        ("falcon-40b", ["query_key_value", "dense"]),
        ("starcoder", ["c_attn", "c_proj", "c_fc"]),
        ("opt-350m", ["q_proj", "out_proj", "fc1", "fc2", "project_in"]),
    ],
)
def test_adapters(name: str, targets: list[str], tmp_path: Path, ranks: Ranks) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    write(BY_NAME[name], base)
    save_adapter(base, adapter, 3, targets, r=4, lora_alpha=8)
    job = Job(base, TEXTS, adapters={"x": adapter})
    alone = compute(job)
    assert _error(alone, compute(replace(job, adapters=None))) > 0.01
    for size in (2, 4):
        _assert_same(ranks.run(job, size), alone)


def _llama(vocab_size: int, is_tied: bool) -> Variant:
    return Variant("llama", lambda: hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=vocab_size, hidden_size=64, intermediate_size=96, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=is_tied,
    )))  # fmt: skip


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("vocab_size", [97, 111, 32, 17])
@pytest.mark.parametrize("size", [2, 4])
def test_vocabularies(
    vocab_size: int, is_tied: bool, size: int, tmp_path: Path, ranks: Ranks
) -> None:
    """Of 17 words the last of four ranks has none."""
    write(_llama(vocab_size, is_tied), tmp_path)
    texts = {name: [token % vocab_size for token in ids] for name, ids in TEXTS.items()}
    job = Job(tmp_path, {**texts, "last": [0, vocab_size - 1, 1]})
    alone = compute(job)
    assert alone.logits["a"].shape == (14, vocab_size)
    _assert_same(ranks.run(job, size), alone)


def test_a_padded_head_in_8_bits(tmp_path: Path, ranks: Ranks) -> None:
    """Rows of zeros have no scale."""
    write(_llama(17, is_tied=False), tmp_path)
    texts = {name: [token % 17 for token in ids] for name, ids in TEXTS.items()}
    for found in ranks.run(Job(tmp_path, texts, scheme="int8"), 4):
        assert all(np.isfinite(logits).all() for logits in found.logits.values())


def test_each_rank_holds_its_share(tmp_path: Path, ranks: Ranks) -> None:
    """All but the norms is divided, and so is the cache, as far as there are key-value heads."""
    write(BY_NAME["llama"], tmp_path)
    job = Job(tmp_path, TEXTS)
    alone, num_layers, key_and_value = compute(job), 2, 2 * 16 * 64
    norms = (2 * num_layers + 1) * 64
    two, four = ranks.run(job, 2), ranks.run(job, 4)
    for found in two:
        assert found.cache_bytes == alone.cache_bytes // 2
        assert found.num_weights == (alone.num_weights - norms) // 2 + norms
    for found in four:
        assert found.cache_bytes == alone.cache_bytes // 2
        share = (alone.num_weights - norms) // 4
        assert found.num_weights == share + norms + num_layers * key_and_value // 2


@pytest.mark.parametrize(("name", "kind"), [("llama", "Q4_1"), ("qwen3-old", "Q8_0")])
def test_gguf_files(name: str, kind: str, tmp_path: Path, ranks: Ranks) -> None:
    """Blocks that stay and blocks that do not, rows in GGUF's order, and adapters on them."""
    folder, adapter = tmp_path / "folder", tmp_path / "adapter"
    write(BY_NAME[name], tmp_path / "hub")
    same = tmp_path / "same"
    write_gguf(tmp_path / "hub", tmp_path / "x.gguf", FAMILIES[name], lambda name: kind, same)
    folder.mkdir()
    prepare(tmp_path / "x.gguf", folder)
    save_adapter(same, adapter, 3, ["q_proj", "v_proj", "o_proj", "down_proj"], r=4)
    job = Job(folder, TEXTS, adapters={"x": adapter})
    alone = compute(replace(job, folder=same))
    _assert_same([compute(job)], alone)
    _assert_same(ranks.run(job, 2), alone)
    _assert_same(ranks.run(replace(job, adapters=None), 2), compute(replace(job, adapters=None)))
