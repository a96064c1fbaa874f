"""The models that embedders race with: MiniLM, and published sizes with random weights.

Each is a folder that sentence-transformers reads, with MiniLM's tokenizer, so that all of them get
the same tokens. Vectors of random weights mean nothing, and cost what trained ones do.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from harness.models import EMBEDDER_ID

from atoll.weights.files import resolve

# Configuration keys of a pooling.
_MODES = {"cls": "cls_token", "mean": "mean_tokens", "last-token": "lasttoken"}


class Shape(NamedTuple):
    """A row of ``SHAPES``.

    pooling: cls, mean or last-token. every: of the texts, every so many are measured: a text costs
    that much more than with MiniLM. build: the transformers model; None: MiniLM itself.
    left_out: how names of peers begin that cannot run it.
    """

    title: str
    pooling: str
    every: int = 1
    build: Callable[[], Any] | None = None
    left_out: tuple[str, ...] = ()

    def folder(self, cache: Path) -> Path:
        """The checkpoint, written into ``cache`` once."""
        if self.build is None:
            return resolve(EMBEDDER_ID)
        folder = cache / self.title.replace(" ", "-").lower()
        if not (folder / "modules.json").exists():
            _write(folder, self.build, self.pooling)
        return folder


def _bert(**changes: Any) -> Any:
    from transformers import BertConfig, BertModel

    # ctranslate2's converter asks for a field that transformers no longer writes by itself.
    return BertModel(BertConfig(position_embedding_type="absolute", **changes))


def _modern_bert(**changes: Any) -> Any:
    from transformers import ModernBertConfig, ModernBertModel

    # The defaults are ModernBERT-base's.
    return ModernBertModel(ModernBertConfig(**changes))


def _qwen3(**changes: Any) -> Any:
    from transformers import Qwen3Config, Qwen3Model

    sizes = dict(
        vocab_size=151669, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
        num_attention_heads=16, num_key_value_heads=8, head_dim=128, max_position_embeddings=32768,
        rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
    )  # fmt: skip
    return Qwen3Model(Qwen3Config(**{**sizes, **changes}))


_TINY = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3,
             num_attention_heads=4)  # fmt: skip
SHAPES = {
    "minilm": Shape("all-MiniLM-L6-v2", "mean"),
    "bge-base": Shape("bge-base shape", "cls", 6, _bert),
    "modernbert-base": Shape("ModernBERT-base shape", "mean", 6, _modern_bert, ("ctranslate2",)),
    "qwen3-embedding-0.6b": Shape(
        "Qwen3-Embedding-0.6B shape", "last-token", 24, _qwen3, ("ctranslate2",)
    ),
    # To try whether all contestants run, in seconds.
    "tiny-modernbert": Shape(
        "tiny ModernBERT", "mean", 24, partial(_modern_bert, **_TINY),
        ("ctranslate2",),
    ),
    "tiny-qwen3": Shape(
        "tiny Qwen3", "last-token", 24,
        partial(_qwen3, **_TINY, num_key_value_heads=2, head_dim=16), ("ctranslate2",),
    ),
}  # fmt: skip


def _write(folder: Path, build: Callable[[], Any], pooling: str) -> None:
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    model = build()
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(str(resolve(EMBEDDER_ID)))
    if not hasattr(model.config, "type_vocab_size"):
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {f"pooling_mode_{key}": name == pooling for name, key in _MODES.items()}
    config = {"word_embedding_dimension": model.config.hidden_size, **modes}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    steps = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
