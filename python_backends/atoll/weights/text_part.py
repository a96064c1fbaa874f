"""The text part of a config.json whose model also takes images or sound.

Such a file keeps what it says of the language model in ``text_config``, which leaves out what the
library assumes, and says some of it beside that. Here it becomes the config.json that the language
model alone would have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.weights.json_fields import Fields

_NAME = "text_config"
# What the whole model is, and how it is stored: never said by the part.
_OF_THE_WHOLE = (
    "architectures",
    "auto_map",
    "_name_or_path",
    "tokenizer_class",
    "transformers_version",
)
# Said on either level; the whole model's word counts, as in transformers.
_ON_EITHER = (
    "dtype", "torch_dtype", "quantization_config", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
_TIED = "tie_word_embeddings"


def text_part(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """What config.json says of the model for text; ``raw`` itself where it has no ``text_config``.

    Embedding and head are one if either level says so.

    Raises:
        ConfigError: text_config is no object, or a level says something else than true or false.
    """
    inner = Fields(raw).inside(_NAME).raw
    if not inner:
        return raw
    whole = {key: raw[key] for key in _OF_THE_WHOLE if raw.get(key) is not None}
    found = {key: value for key, value in inner.items() if key not in _OF_THE_WHOLE} | whole
    found |= {key: raw[key] for key in _ON_EITHER if raw.get(key) is not None}
    sources = Fields(raw), Fields(inner, f"config.json: {_NAME}")
    said = [source.flag(_TIED) for source in sources if source.has(_TIED)]
    return {**found, _TIED: any(said)} if said else found
