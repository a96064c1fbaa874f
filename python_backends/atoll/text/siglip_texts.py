"""What SigLIP's tokenizer makes of a text first: lower case, without punctuation.

Source: ``canonicalize_text`` of transformers' ``SiglipTokenizer``. tokenizer.json has it in itself.
"""

from __future__ import annotations

import re
import string
from typing import Any

from tokenizers import Regex, normalizers

_PUNCTUATION = Regex(f"[{re.escape(string.punctuation)}]")


def canonical(own: Any, is_lower_case: bool) -> Any:
    """A normalizer of ``tokenizers`` with these steps before its own."""
    steps: list[Any] = [normalizers.Lowercase()] if is_lower_case else []
    steps += [
        normalizers.Replace(_PUNCTUATION, ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    return normalizers.Sequence([*steps, own])
