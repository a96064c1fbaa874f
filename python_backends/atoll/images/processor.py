"""Pictures to the patches of a model, as its preprocessor_config.json says.

Source: transformers' ``CLIPImageProcessorPil`` and ``SiglipImageProcessorPil``, which resize with
Pillow; the processors that use torchvision differ from them by its rounding. Pixels stay bytes
here, a quarter of what they become: ``ImageProcessor.scaling`` says what a model makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from atoll.errors import ConfigError, ValidationError
from atoll.images.reader import ImageLimits, read_image
from atoll.weights.json_fields import Fields, shown
from atoll.weights.modules import read_object

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.uint8]

_FILE = "preprocessor_config.json"
_NESTED_FILE, _NESTED = "processor_config.json", "image_processor"
PROCESSOR_FILES = (_FILE, _NESTED_FILE)
_CLIP: Mapping[str, Any] = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_SIGLIP: Mapping[str, Any] = {
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
# What transformers' classes assume, by their names without Fast or Pil.
_CLASSES: Mapping[str, Mapping[str, Any]] = {
    "CLIPImageProcessor": _CLIP,
    "CLIPFeatureExtractor": _CLIP,
    "SiglipImageProcessor": _SIGLIP,
}
_BY_MODEL_TYPE = {"clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor"}
# Pillow's numbers of its filters.
_FILTERS = range(6)
_BICUBIC = 3


class Scaling(NamedTuple):
    """A pixel's value becomes ``(value * factor - mean) / std``; mean, std: of each colour."""

    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ImageProcessor:
    """image_size, patch_size: what the model takes, in pixels.

    shortest_edge: to which the shorter side is resized; None: see ``size``.
    size: (height, width) to which images are resized whatever their sides are; None: they are not.
    crop: (height, width) of the middle that is cut out; None: nothing is cut off.
    """

    image_size: int
    patch_size: int
    shortest_edge: int | None
    size: tuple[int, int] | None
    crop: tuple[int, int] | None
    filter: int
    scaling: Scaling

    @classmethod
    def read(
        cls, folder: Path, model_type: str, image_size: int, patch_size: int
    ) -> ImageProcessor:
        """Raises ConfigError: there is no file, or it asks for what is not supported."""
        raw, source = _read(folder)
        f = Fields(raw, source)
        assumed = _assumed(f, model_type)
        f = Fields({**assumed, **{k: v for k, v in raw.items() if v is not None}}, source)
        f.only("do_pad", False)
        shortest_edge, size = _sizes(f) if f.flag("do_resize", default=True) else (None, None)
        crop = None
        if f.flag("do_center_crop", default=False):
            crop = _rectangle(f, "crop_size")
        target = (image_size, image_size)
        if (crop or size) != target:
            name = "crop_size" if crop else "size"
            raise f.wrong(f"the image_size of config.json, {image_size} by {image_size}", name)
        resample = f.count("resample", default=_BICUBIC)
        if resample not in _FILTERS:
            raise f.wrong(f"one of Pillow's filters, 0 to {_FILTERS[-1]}", "resample")
        return cls(image_size, patch_size, shortest_edge, size, crop, resample, _scaling(f))

    def patches(self, name: str, given: bytes, limits: ImageLimits) -> Pixels:
        """An encoded image as (patches, colours * patch_size * patch_size), row by row.

        Raises:
            ValidationError: see ``read_image``; or the image is so narrow that it would grow beyond
                the limit.
        """
        picture = self._resized(name, read_image(name, given, limits), limits)
        if self.crop is not None:
            picture = _cropped(picture, self.crop)
        count = self.image_size // self.patch_size
        side = count * self.patch_size
        pixels = np.asarray(picture)[:side, :side]
        grid = pixels.reshape(count, self.patch_size, count, self.patch_size, -1)
        return np.ascontiguousarray(grid.transpose(0, 2, 4, 1, 3)).reshape(count * count, -1)

    def _resized(self, name: str, picture: Image, limits: ImageLimits) -> Image:
        width, height = picture.size
        if self.size is not None:
            height, width = self.size
        elif self.shortest_edge is not None:
            edge = self.shortest_edge
            longest = int(edge * max(width, height) / min(width, height))
            if edge * longest > limits.max_pixels:
                raise ValidationError(
                    f"{name} has {width} x {height} pixels; with a shorter side of {edge}, to "
                    f"which it is resized, it would have {edge * longest}, and max_image_pixels is "
                    f"{limits.max_pixels}"
                )
            width, height = (edge, longest) if width <= height else (longest, edge)
        return picture.resize((width, height), resample=self.filter)


def _read(folder: Path) -> tuple[Mapping[str, Any], str]:
    """The processor's keys, and their file; where transformers looks first goes first."""
    path = folder / _NESTED_FILE
    inner = Fields(read_object(path), str(path)).inside(_NESTED)
    if inner.raw:
        return inner.raw, inner.source
    path = folder / _FILE
    if not path.exists():
        raise ConfigError(f"{path} is missing, which says how images are resized and scaled")
    return read_object(path), str(path)


def _assumed(f: Fields, model_type: str) -> Mapping[str, Any]:
    names = ("image_processor_type", "feature_extractor_type")
    named = next((f.text(name) for name in names if f.has(name)), _BY_MODEL_TYPE[model_type])
    found = _CLASSES.get(named.removesuffix("Fast").removesuffix("Pil"))
    if found is None:
        raise f.wrong(f"one of {', '.join(_CLASSES)}", *(n for n in names if f.has(n)))
    return found


def _sizes(f: Fields) -> tuple[int | None, tuple[int, int] | None]:
    """The shortest edge, or (height, width)."""
    if type(f.raw["size"]) is int:
        return f.size("size"), None
    inner = f.inside("size")
    if set(inner.raw) == {"shortest_edge"}:
        return inner.size("shortest_edge"), None
    return None, _rectangle(f, "size")


def _rectangle(f: Fields, name: str) -> tuple[int, int]:
    """(height, width); a number stands for a square."""
    if type(f.raw[name]) is int:
        return f.size(name), f.size(name)
    inner = f.inside(name)
    if set(inner.raw) != {"height", "width"}:
        raise ConfigError(
            f"{f.source}: {name} is {shown(f.raw[name])}; expected height and width, or a number"
        )
    return inner.size("height"), inner.size("width")


def _scaling(f: Fields) -> Scaling:
    factor = 1.0
    if f.flag("do_rescale", default=True):
        factor = f.number("rescale_factor", default=1 / 255)
    if not f.flag("do_normalize", default=True):
        return Scaling(factor, (0.0,) * 3, (1.0,) * 3)
    return Scaling(factor, _mean(f), f.numbers("image_std", 3, "one for each colour"))


def _mean(f: Fields) -> tuple[float, ...]:
    values = f.raw["image_mean"]
    is_right = isinstance(values, list) and len(values) == 3
    if not is_right or not all(type(v) in (int, float) and np.isfinite(v) for v in values):
        raise f.wrong("a list of 3 finite numbers, one for each colour", "image_mean")
    return tuple(map(float, values))


def _cropped(picture: Image, crop: tuple[int, int]) -> Image:
    """The middle; where the picture is smaller, black is around it."""
    (height, width), (right, bottom) = crop, picture.size
    top, left = (bottom - height) // 2, (right - width) // 2
    return picture.crop((left, top, left + width, top + height))
