"""Converts and checks the values of options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.errors import ValidationError
from atoll.serving.triton.tensors import as_bool, as_float, as_int


class OptionReader:
    """Options by their canonical names; all methods raise ValidationError for wrong values."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def has(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str) -> Any:
        return self._values.get(name)

    def flag(self, name: str, default: bool = False) -> bool:
        return as_bool(name, self._values[name]) if name in self._values else default

    def integer(
        self, name: str, default: int, least: int | None = None, most: int | None = None
    ) -> int:
        if name not in self._values:
            return default
        return as_int(name, self._values[name], least, most)

    def number(
        self, name: str, default: float, least: float | None = None, most: float | None = None
    ) -> float:
        if name not in self._values:
            return default
        return as_float(name, self._values[name], least, most)

    def above_zero(self, name: str, default: float, most: float | None = None) -> float:
        value = self.number(name, default, 0.0, most)
        if value == 0.0:
            raise ValidationError(f"{name} is 0; it must be strictly positive")
        return value
