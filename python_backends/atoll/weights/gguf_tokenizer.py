"""The tokenizer inside a GGUF file as a ``tokenizers`` object.

Knows byte-level BPE (``tokenizer.ggml.model`` "gpt2") with GPT-2's own split of words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from atoll.errors import UnsupportedModel, WeightError

# What to do with a file that is not converted.
INSTEAD = "; serve the checkpoint that it was made from (safetensors and tokenizer.json) instead"
_NEEDED = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
_CONTROL = 3
_USER_DEFINED = 4
# Pre-tokenizers that are GPT-2's pattern. SmolLM2's vocabulary has no merge with a digit in it.
_SPLITS = ("default", "gpt-2", "smollm")


def build_tokenizer(metadata: Mapping[str, Any], source: str) -> Tokenizer:
    """A tokenizer with the file's vocabulary, merges and special tokens.

    Args:
        source: what to call the file in messages.

    Raises:
        UnsupportedModel: another kind of vocabulary, or another split of words.
        WeightError: the file has no vocabulary or no merges.
    """
    kind = metadata.get("tokenizer.ggml.model")
    split = metadata.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or split not in _SPLITS:
        raise UnsupportedModel(
            f"{source}: tokenizer {kind!r} with pre-tokenizer {split!r}; "
            f"known: 'gpt2' with {', '.join(_SPLITS)}{INSTEAD}"
        )
    missing = [key for key in _NEEDED if key not in metadata]
    if missing:
        raise WeightError(f"{source}: metadata {missing[0]!r} is missing")
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(_added(metadata))
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    if metadata.get("tokenizer.ggml.add_bos_token", False) and bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A",
            pair=f"{tokens[bos]} $A {tokens[bos]} $B",
            special_tokens=[(tokens[bos], bos)],
        )
    return tokenizer


def _added(metadata: Mapping[str, Any]) -> list[AddedToken]:
    """Tokens that are matched whole in the text before anything else."""
    tokens = metadata["tokenizer.ggml.tokens"]
    kinds = metadata.get("tokenizer.ggml.token_type", [])
    return [
        AddedToken(token, normalized=False, special=kind == _CONTROL)
        for token, kind in zip(tokens, kinds, strict=False)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
