"""Checkpoint folders, by their JSON files alone, that look like others that are served."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Json = Mapping[str, Any]
BERT: dict[str, Any] = {
    "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 96, "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 70,
}  # fmt: skip
LLAMA: dict[str, Any] = {
    **BERT, "model_type": "llama", "architectures": ["LlamaForCausalLM"],
    "num_key_value_heads": 2,
}  # fmt: skip
QWEN3 = {**LLAMA, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 8}
# Has no file here.
STABLELM = {**LLAMA, "model_type": "stablelm", "architectures": ["StableLmForCausalLM"]}
VISION = {"vision_config": {"hidden_size": 32, "model_type": "siglip_vision_model"}}
TRUNK = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {**TRUNK, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
TOKENS = "sentence_transformers.multi_vector_encoder.modules.token_pooling"
SCORE = {
    **TRUNK, "path": "1_LogitScore",
    "type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
}  # fmt: skip
NLLB_MOE = {"model_type": "nllb-moe", "architectures": ["NllbMoeForConditionalGeneration"],
            "is_encoder_decoder": True, "d_model": 32, "vocab_size": 96}  # fmt: skip
PEGASUS = {
    **NLLB_MOE, "model_type": "pegasus", "architectures": ["PegasusForConditionalGeneration"],
}  # fmt: skip
JUDGE = (
    "{% for m in messages %}{% if m.role == 'query' %}Q{{ m.content }}{% elif m.role == 'document' "
    "%}D{{ m.content }}{% endif %}{% endfor %}yes or no?"
)
CARD = "---\nlicense: apache-2.0\npipeline_tag: text-ranking\n---\n# A reranker\n"


def folder_of(folder: Path, config: Json, files: Mapping[str, Any] | None = None) -> Path:
    """config.json, and other files by name: JSON, or text as it is."""
    for name, content in {"config.json": config, **(files or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder
