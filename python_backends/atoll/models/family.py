"""A row of the table of architectures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """A file of ``atoll.models``, and the checkpoints that it implements.

    file: without ``.py``. title: what people call them, in the README's table.
    model_types: of config.json. names: what error messages call each, if it is an encoder.
    classes: config.json's architectures[0] of repositories whose model_type says something else.
    transcribes: whether its input is sound.
    variant: a (key, value) of config.json, for families that share another one's model_type.
    class_prefixes: by model_type, how its classes begin where they are not called as it is.
    defaults: by model_type, what transformers' config class assumes where the file does not.
    test: what holds the file to its reference.
    """

    file: str
    title: str
    model_types: tuple[str, ...]
    names: tuple[str, ...] = ()
    is_encoder: bool = False
    is_encoder_decoder: bool = False
    transcribes: bool = False
    classes: tuple[str, ...] = ()
    variant: tuple[str, str] | None = None
    class_prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    test: str = "tests/models/test_decoders.py"
