"""Client of a Triton server that runs Atoll; needs tritonclient and numpy, no torch."""

from atoll_client.aio import AsyncClient
from atoll_client.client import Client, Conversation
from atoll_client.conversation import AsyncConversation
from atoll_client.errors import AtollError
from atoll_client.speech import Segment, Transcript
from atoll_client.types import (
    Alternative,
    Chunk,
    Entity,
    Generation,
    HybridEmbeddings,
    Label,
    ModelInfo,
    Rank,
    SparseVector,
    Token,
)

__version__ = "0.1.0"
__all__ = [
    "Alternative",
    "AsyncClient",
    "AsyncConversation",
    "AtollError",
    "Chunk",
    "Client",
    "Conversation",
    "Entity",
    "Generation",
    "HybridEmbeddings",
    "Label",
    "ModelInfo",
    "Rank",
    "Segment",
    "SparseVector",
    "Token",
    "Transcript",
    "__version__",
]
