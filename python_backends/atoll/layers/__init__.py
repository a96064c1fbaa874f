"""What two or more architectures share."""

from atoll.layers.attention import Attention, CrossAttention, Heads
from atoll.layers.batch import Batch
from atoll.layers.decoder import CausalLM, DecoderConfig
from atoll.layers.embedding import Embedding
from atoll.layers.encoder import EncoderTrunk, TrunkConfig
from atoll.layers.linear import Linear
from atoll.layers.mlp import MLP, GatedMLP
from atoll.layers.norm import LayerNorm, RMSNorm

__all__ = [
    "MLP",
    "Attention",
    "Batch",
    "CausalLM",
    "CrossAttention",
    "DecoderConfig",
    "Embedding",
    "EncoderTrunk",
    "GatedMLP",
    "Heads",
    "LayerNorm",
    "Linear",
    "RMSNorm",
    "TrunkConfig",
]
