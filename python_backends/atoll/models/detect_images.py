"""Checkpoints of models for texts and images: what they are, by their config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atoll.errors import UnsupportedModel
from atoll.images.processor import PROCESSOR_FILES, ImageProcessor
from atoll.models.encoder_families import WITH_IMAGES
from atoll.models.families import ENCODERS
from atoll.weights.modules import transformer_folder

_CLASSES = ("CLIPModel", "SiglipModel")


class TowerFacts(NamedTuple):
    """hidden_size: of the trunk of texts. width: of the vectors of both.

    max_tokens: positions of a text.
    """

    hidden_size: int
    width: int
    max_tokens: int


def tower_facts(
    folder: Path, config: Mapping[str, Any], names: Sequence[str], task: str
) -> TowerFacts | None:
    """None: it is no such model.

    Args:
        names: config.json's architectures.

    Raises:
        ConfigError: a value of config.json, or of the processor's file, is not supported.
        UnsupportedModel: it is for another task, or only a part of such a model.
    """
    kind = config.get("model_type")
    if kind not in WITH_IMAGES:
        return None
    if task != "embed":
        raise UnsupportedModel(
            f"{folder}: {names[0] if names else kind} embeds texts and images; it is not for task "
            f"{task!r}"
        )
    if names and names[0] not in _CLASSES:
        raise UnsupportedModel(
            f"{folder}: {names[0]} is not supported; of models for texts and images, supported "
            f"classes are {', '.join(_CLASSES)}"
        )
    from atoll.models import registry

    found = registry.architecture(config, ENCODERS).Config.from_hf(config)
    trunk, vision = transformer_folder(folder), found.vision
    # The server needs one; what describes a checkpoint may come without.
    if any((trunk / name).exists() for name in PROCESSOR_FILES):
        ImageProcessor.read(trunk, str(kind), vision.image_size, vision.patch_size)
    return TowerFacts(found.hidden_size, found.width, found.max_length)
