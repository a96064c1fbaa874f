"""Tiny tables of word vectors, as sentence-transformers and model2vec write them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [chr(code) for code in range(97, 123)]
SIZE, WIDTH = len(SPECIAL) + 2 * len(LETTERS), 16
# One holds unknown words, one consists of them alone, one is longer than the limit of "cut".
TEXTS = ["abc", "A ring of coral, 42", "??", "z", "abc def " * 9]


def write_static_tokenizer(folder: Path, max_length: int | None = None) -> None:
    """WordPiece of letters, in lower case; [CLS] and [SEP] are put around texts if asked."""
    vocabulary = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    core = Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.add_special_tokens(SPECIAL)
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    if max_length is not None:
        core.enable_truncation(max_length)
    core.save(str(folder / "tokenizer.json"))


def write_static(
    folder: Path, kind: str, path: str | None, width: int = WIDTH
) -> dict[str, Tensor]:
    """A folder of a StaticEmbedding module at ``path``, or of model2vec alone (None).

    kind: plain, normalized (with a Normalize module), weights (one for each token), mapping (tokens
    share rows), cut (tokenizer.json truncates), half (float16).
    """
    generator = torch.Generator().manual_seed(7)
    rows = 9 if kind == "mapping" else SIZE
    table = torch.randn((rows, width), generator=generator)
    is_model2vec = path is None or kind in ("weights", "mapping")
    name = "embeddings" if is_model2vec else "embedding.weight"
    tensors = {name: table.half() if kind == "half" else table}
    if kind in ("weights", "mapping"):
        tensors["weights"] = torch.rand(SIZE, generator=generator, dtype=torch.float64)
    if kind == "mapping":
        tensors["mapping"] = torch.randint(0, rows, (SIZE,), generator=generator)
    own = folder / (path or "")
    own.mkdir(parents=True, exist_ok=True)
    save_file(tensors, own / "model.safetensors")
    write_static_tokenizer(own, 5 if kind == "cut" else None)
    if path is None:
        config = {
            "model_type": "model2vec", "architectures": ["StaticModel"], "apply_zipf": True,
            "hidden_dim": WIDTH, "seq_length": 1000000, "normalize": True,
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config))
        return tensors
    kinds = [(path, "StaticEmbedding"), ("1_Normalize", "Normalize")][: 1 + (kind == "normalized")]
    modules = [
        {"idx": i, "name": str(i), "path": where, "type": f"sentence_transformers.models.{kind}"}
        for i, (where, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for where, _ in kinds[1:]:
        (folder / where).mkdir()
    return tensors
