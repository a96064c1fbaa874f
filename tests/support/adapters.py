"""LoRA adapters as PEFT writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as hf


def save_adapter(
    base: Path, folder: Path, seed: int, targets: list[str] | str, **options: Any
) -> Any:
    """A random adapter on disk; returns peft's model with it."""
    import peft  # seconds, which every worker would spend as it collects the tests

    config = peft.LoraConfig(target_modules=targets, task_type="CAUSAL_LM", **options)
    has_images = "vision_config" in json.loads((base / "config.json").read_text())
    auto: Any = hf.AutoModelForImageTextToText if has_images else hf.AutoModelForCausalLM
    model = peft.get_peft_model(auto.from_pretrained(base), config).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    model.save_pretrained(folder)
    return model
