"""What rerankers and classifiers give by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification


def reference(folder: Path, pairs: list[tuple[str, str | None]]) -> Any:
    """Logits, (pairs, labels)."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = []
    for pair in pairs:
        encoding = tokenizer.encode(*pair)
        ids, types = torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids])
        with torch.inference_mode():
            rows.append(model(input_ids=ids, token_type_ids=types).logits[0].numpy())
    return np.stack(rows)
