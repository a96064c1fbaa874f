"""What two or more architectures share."""

from atoll.layers.attention import PackedAttention, PagedAttention
from atoll.layers.batch import Batch
from atoll.layers.embedding import Embedding
from atoll.layers.linear import Linear
from atoll.layers.norm import LayerNorm, RMSNorm
from atoll.layers.rotary import Rotary

__all__ = [
    "Embedding",
    "LayerNorm",
    "Linear",
    "PackedAttention",
    "Batch",
    "PagedAttention",
    "Batch",
    "RMSNorm",
    "Rotary",
]
