"""Tiny DeBERTas of v2 and v3, with all that their configs may say of distances."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from transformers import (
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DebertaV2ForSequenceClassification,
    DebertaV2Model,
)

from tiny.checkpoint import Variant
from tiny.encoder_sizes import SIZES

# As microsoft/deberta-v3-base; buckets and their end are scaled down with the length.
V3: dict[str, Any] = {
    **SIZES,
    "relative_attention": True,
    "position_buckets": 16,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
    "pad_token_id": 0,
}
_OWN_PROJECTIONS = {"share_att_key": False, "norm_rel_ebd": "none", "position_buckets": -1}


def _deberta(model: Any = DebertaV2Model, **options: Any) -> nn.Module:
    built: nn.Module = model(DebertaV2Config(**{**V3, **options}))
    return built


def _variant(name: str, model: Any = DebertaV2Model, **options: Any) -> Variant:
    return Variant(f"deberta{name}", partial(_deberta, model, **options))


TRUNKS = [
    _variant(""),
    # One kind of scores, projections and rows of their own, distances that end before the text.
    _variant("-c2p", pos_att_type=["c2p"], max_relative_positions=20, **_OWN_PROJECTIONS),
    _variant("-p2c", pos_att_type=["p2c"], **_OWN_PROJECTIONS),
    # As microsoft/deberta-v2-xlarge, and with a wider convolution than its.
    _variant("-xlarge", conv_kernel_size=3, conv_act="gelu"),
    _variant("-convolution", conv_kernel_size=5, hidden_size=32),
    _variant(
        "-all", share_att_key=False, embedding_size=32, position_biased_input=True,
        type_vocab_size=2,
    ),
]  # fmt: skip
FILLERS = [
    _variant("", DebertaV2ForMaskedLM, legacy=False),
    _variant("-legacy", DebertaV2ForMaskedLM, embedding_size=32),
]


def classifiers(num_labels: int) -> list[Variant]:
    """A classifier of v3."""
    return [_variant("", DebertaV2ForSequenceClassification, num_labels=num_labels)]
