"""How Mistral's byte-level tokenizers split texts into words.

Files that transformers converted before its version 5 have another pattern than Mistral's own
tokenizer: some texts become other tokens than those that the model was trained on. As there, the
pattern is put right where tokenizer_config.json says ``fix_mistral_regex``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from atoll.errors import ConfigError

logger = logging.getLogger(__name__)

KEY = "fix_mistral_regex"
# Of Mistral's tokenizers that are not byte-level, the largest has fewer tokens.
LARGEST_OTHER = 100_000
_FAMILIES = ("mistral", "ministral")
# Mistral's own, as in transformers' ``TokenizersBackend._patch_mistral_regex``.
_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLIT = {
    "type": "Split", "pattern": {"Regex": _PATTERN}, "behavior": "Isolated", "invert": False,
}  # fmt: skip


def corrected(
    state: Mapping[str, Any] | None, is_asked: bool | None, model: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The split that replaces the pre-tokenizer's first; None: it stays.

    If it is wrong, and the key is absent, a warning is logged.

    Args:
        state: of the pre-tokenizer. is_asked: tokenizer_config.json's key. model: config.json.

    Raises:
        ConfigError: the key asks for it, and the tokenizer does not split by a pattern.
    """
    major = re.match(r"\d+", str(model.get("transformers_version") or "0"))
    if model.get("model_type") not in _FAMILIES or (major and int(major[0]) >= 5):
        return None
    steps: Any = (state or {}).get("pretokenizers")
    first: Mapping[str, Any] = steps[0] if steps else {}
    if first.get("type") != "Split":
        if is_asked:
            raise ConfigError(
                f"tokenizer_config.json: {KEY} is true, and tokenizer.json does not begin by "
                "splitting texts by a pattern"
            )
        return None
    if first == _SPLIT or is_asked is False:
        return None
    if is_asked is None:
        logger.warning(
            "tokenizer.json splits texts by another pattern than Mistral's own tokenizer, so that "
            "some become other tokens; %s: true in tokenizer_config.json corrects it", KEY,
        )  # fmt: skip
        return None
    return _SPLIT
