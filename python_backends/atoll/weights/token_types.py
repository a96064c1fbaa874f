"""Whether a checkpoint's model is given the segments of a pair, by the files of its tokenizer."""

from __future__ import annotations

from pathlib import Path

from atoll.weights.json_fields import Fields
from atoll.weights.modules import tokenizer_config

# Prefixes of tokenizer classes without segments. Unlike TokenizersBackend of transformers 5,
# PreTrainedTokenizerFast of transformers 4 has segments; so have the classes below unless
# transformers 5 wrote the file, which names a backend there.
_WITHOUT_TOKEN_TYPES = (
    "Roberta", "XLMRoberta", "Camembert", "MPNet", "DistilBert", "TokenizersBackend",
)  # fmt: skip
_WITHOUT_TOKEN_TYPES_IN_5 = ("Albert", "RemBert")


def has_token_types(folder: Path) -> bool:
    """By transformers' rule: from the tokenizer's file, or else from the tokenizer's class."""
    raw = tokenizer_config(folder)
    fields = Fields(raw, "tokenizer_config.json")
    if fields.has("model_input_names"):
        return "token_type_ids" in fields.texts("model_input_names")
    more = _WITHOUT_TOKEN_TYPES_IN_5 if "backend" in raw else ()
    return not str(raw.get("tokenizer_class", "")).startswith((*_WITHOUT_TOKEN_TYPES, *more))
