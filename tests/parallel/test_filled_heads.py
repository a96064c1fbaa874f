"""Heads that do not divide: the last ranks get heads of zeros, which change nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from adapters import save_adapter
from ranks import Job, Ranks, compute
from tiny.checkpoint import Variant, write
from tiny.quantize import Packing, quantized_checkpoints
from transformers import T5Config, T5ForConditionalGeneration

VOCAB = 96
_IDS = torch.randint(3, VOCAB, (26,), generator=torch.Generator().manual_seed(5)).tolist()
TEXTS = {"a": _IDS[:14], "b": _IDS[14:]}


def _falcon(**changes: Any) -> Any:
    values = dict(vocab_size=VOCAB, hidden_size=144, num_hidden_layers=2, num_attention_heads=9)
    return hf.FalconForCausalLM(hf.FalconConfig(**{**values, **changes}))


def _llama(**changes: Any) -> Any:
    values = dict(
        vocab_size=VOCAB, hidden_size=144, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=9, num_key_value_heads=9, max_position_embeddings=64,
    )  # fmt: skip
    return hf.LlamaForCausalLM(hf.LlamaConfig(**{**values, **changes}))


def _bloom() -> Any:
    return hf.BloomForCausalLM(
        hf.BloomConfig(vocab_size=VOCAB, hidden_size=144, n_layer=2, n_head=9)
    )


# As Falcon-7B's 71 query heads of one key; each with a key; groups of two; with biases; by head in
# the file and with slopes.
ODD = (
    Variant("one-key", _falcon), Variant("own-keys", _llama),
    Variant("groups", lambda: _llama(num_attention_heads=18, head_dim=16)),
    Variant("biases", lambda: _llama(attention_bias=True)), Variant("bloom", _bloom),
)  # fmt: skip
BY_NAME = {variant.name: variant for variant in ODD}


def _assert_same(ranks: Ranks, job: Job, dense: Path | None = None) -> None:
    alone = compute(Job(dense, job.texts) if dense else job)
    two = ranks.run(job, 2)
    for found in two:
        for name, logits in alone.logits.items():
            atol = 1e-5 * max(1.0, float(logits.std()))
            np.testing.assert_allclose(found.logits[name], logits, rtol=0, atol=atol)


@pytest.mark.parametrize("variant", ODD, ids=lambda v: v.name)
def test_heads_of_zeros(variant: Variant, tmp_path: Path, ranks: Ranks) -> None:
    write(variant, tmp_path)
    _assert_same(ranks, Job(tmp_path, TEXTS))


@pytest.mark.parametrize(
    "packing", [Packing(), Packing(group_size=48, act_order=False), Packing("awq")], ids=str
)
@pytest.mark.parametrize("name", ["own-keys", "bloom"])
def test_quantised(name: str, packing: Packing, tmp_path: Path, ranks: Ranks) -> None:
    packed, dense = quantized_checkpoints(BY_NAME[name], packing, tmp_path)
    _assert_same(ranks, Job(packed, TEXTS), dense)


def test_adapters(tmp_path: Path, ranks: Ranks) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    write(BY_NAME["own-keys"], base)
    save_adapter(base, adapter, 3, ["q_proj", "k_proj", "o_proj"], r=4, lora_alpha=2)
    _assert_same(ranks, Job(base, TEXTS, adapters={"x": adapter}))


def test_an_encoder_decoder(tmp_path: Path, ranks: Ranks) -> None:
    config: dict[str, Any] = {
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": VOCAB,
        "d_model": 48, "d_kv": 16, "d_ff": 80, "num_layers": 2, "num_heads": 9,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
        "decoder_start_token_id": 0, "feed_forward_proj": "relu",
    }  # fmt: skip
    torch.manual_seed(0)
    T5ForConditionalGeneration(T5Config(**config)).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    _assert_same(ranks, Job(tmp_path, TEXTS, {"a": _IDS[:9], "b": _IDS[9:]}))
