"""Tiny models for texts and images, their files for images, and pictures to give them."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from torch import Tensor
from transformers.image_utils import load_image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tiny.checkpoint import Reference, Variant, write
from tiny.encoder_sizes import VOCAB
from tiny.encoders import write_text_files

_SHARED = {"num_hidden_layers": 2, "num_attention_heads": 4}
_CLIP_TEXT = {
    **_SHARED, "hidden_size": 32, "intermediate_size": 48, "vocab_size": VOCAB,
    "max_position_embeddings": 20, "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_CLIP_VISION = {
    **_SHARED, "hidden_size": 48, "intermediate_size": 56, "image_size": 32, "patch_size": 8,
}  # fmt: skip
_SIGLIP_TEXT = {**_CLIP_TEXT, "max_position_embeddings": 16}
# What is left of an image beside three patches is cut off.
_SIGLIP_VISION = {**_CLIP_VISION, "hidden_size": 32, "image_size": 30}


def _clip(width: int = 24, **text: Any) -> Any:
    return hf.CLIPModel(
        hf.CLIPConfig(
            text_config={**_CLIP_TEXT, **text}, vision_config=_CLIP_VISION, projection_dim=width
        )
    )


def _siglip(width: int = 32) -> Any:
    sizes = {"hidden_size": width}
    return hf.SiglipModel(
        hf.SiglipConfig(
            text_config={**_SIGLIP_TEXT, **sizes}, vision_config={**_SIGLIP_VISION, **sizes}
        )
    )


def _wider_images() -> Any:
    """As SigLIP 2's largest: the trunk of images is wider than that of texts."""
    return hf.SiglipModel(
        hf.SiglipConfig(
            text_config={**_SIGLIP_TEXT, "projection_size": 40},
            vision_config={**_SIGLIP_VISION, "hidden_size": 40},
        )
    )


# The second is as published: its end of a text is a number of older files.
TOWERS = (
    Variant("clip", _clip),
    Variant("clip-old", lambda: _clip(eos_token_id=2)),
    Variant("siglip", _siglip),
    Variant("siglip-wide", _wider_images),
)


@dataclass(frozen=True)
class Towers:
    """What transformers makes of texts and images."""

    model: Any
    processor: Any
    padded: int | None

    @torch.inference_mode()
    def text(self, ids: list[int]) -> Tensor:
        """(width,), of one text, which is filled up where the model was trained so."""
        filled = ids if self.padded is None else ids + [0] * (self.padded - len(ids))
        found: Tensor = self.model.get_text_features(torch.tensor([filled])).pooler_output[0]
        return found

    @torch.inference_mode()
    def image(self, encoded: bytes) -> Tensor:
        """(width,), of one encoded image."""
        found: Tensor = self.model.get_image_features(self.pixels(encoded).double())
        return found.pooler_output[0]  # type: ignore[attr-defined, no-any-return]

    def pixels(self, encoded: bytes) -> Tensor:
        """(1, colours, rows, columns), by the processor that uses Pillow."""
        found: Tensor = self.processor(load_image(data_uri(encoded)), return_tensors="pt")[
            "pixel_values"
        ]
        return found


def write_towers(name: str, folder: Path, width: int | None = None) -> Towers:
    """A checkpoint with its tokenizer and its file for images."""
    variant = next(v for v in TOWERS if v.name == name)
    if width is not None:
        build = {"clip": _clip, "siglip": _siglip}[name]
        variant = Variant(name, lambda: build(width))
    found: Reference = write(variant, folder)
    write_text_files(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({"cls_token": "[CLS]", "pad_token": "[PAD]"}))
    is_clip = name.startswith("clip")
    processor: Any = (
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        if is_clip
        else SiglipImageProcessorPil(size={"height": 30, "width": 30})
    )
    processor.save_pretrained(folder)
    return Towers(found.model.double(), processor, None if is_clip else 16)


def read_towers(folder: Path) -> Towers:
    """What ``write_towers`` has written."""
    model = hf.AutoModel.from_pretrained(folder, dtype=torch.float64).eval()
    is_clip = model.config.model_type == "clip"
    kind = CLIPImageProcessorPil if is_clip else SiglipImageProcessorPil
    return Towers(model, kind.from_pretrained(folder), None if is_clip else 16)


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Smooth colours and some noise, so that filters differ."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    channels = [128 + 90 * np.sin((x * (i + 1) + y * (3 - i)) / 9 + seed) for i in range(4)]
    values = np.stack(channels, -1) + generator.normal(0, 12, (height, width, 4))
    pixels = Image.fromarray(values.clip(0, 255).astype(np.uint8), "RGBA")
    return pixels if mode == "RGBA" else pixels.convert("RGB").convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The file of a picture."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def data_uri(image: bytes, kind: str = "png") -> str:
    """An encoded image as clients send it in JSON."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
