"""A checkpoint's folder, changed and compared with what transformers makes of it."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from driving import load
from tiny.llamas import VOCAB
from tiny.paged import PagedRunner

COUNT = 16
Json = dict[str, Any]


def some_ids(count: int) -> list[int]:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(3, VOCAB, (count,), generator=generator).tolist()


def edit(path: Path, *drop: str, **changes: Any) -> None:
    """Changes a JSON file: keys that go, and keys with new values."""
    found = json.loads(path.read_text())
    kept = {key: value for key, value in {**found, **changes}.items() if key not in drop}
    path.write_text(json.dumps(kept))


@torch.inference_mode()
def assert_as_transformers(folder: Path) -> None:
    """Our logits are those of transformers, which reads the same folder."""
    ids = some_ids(40)
    reference = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = reference(torch.tensor([ids]), use_cache=False).logits[0]
    ours = PagedRunner(load(folder)).step({"a": ids})["a"]
    limit = 2e-5 * max(1.0, float(expected.std()))
    assert float((ours - expected).abs().max()) <= limit
