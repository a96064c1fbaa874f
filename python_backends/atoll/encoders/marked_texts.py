"""The encoders of texts of both sides of a late-interaction model, queries and documents."""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers import Tokenizer as RustTokenizer

from atoll.encoders.multi_vector_encoder import MultiVectorEncoder
from atoll.text.marked_text import MarkedEncoder


def marked_encoders(
    core: RustTokenizer, special_tokens: Mapping[str, str], encoder: MultiVectorEncoder
) -> dict[str, MarkedEncoder]:
    """By side, "query" and "document". Adds markers to ``core`` that it would split.

    special_tokens: texts by name (``mask_token``, ...).

    Raises:
        ConfigError: a length leaves no room for a text, or queries are filled up with no token.
    """
    late = encoder.late
    sides = {
        "query": (late.query_prompt, encoder.query_length, late.expansion),
        "document": (late.document_prompt, encoder.document_length, None),
    }
    return {
        side: MarkedEncoder(
            core, prompt=prompt, has_marker=late.has_markers, length=length, expansion=expansion,
            mask_token=special_tokens.get("mask_token", special_tokens.get("eos_token")),
            skiplist=late.skiplist if side in late.skiplist_tasks else (),
            num_token_types=encoder.num_token_types, vocab_size=encoder.vocab_size,
        )
        for side, (prompt, length, expansion) in sides.items()
    }  # fmt: skip
