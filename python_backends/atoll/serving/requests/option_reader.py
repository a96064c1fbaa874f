"""Converts and checks the values of options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from atoll.errors import ValidationError
from atoll.serving.requests.option_names import parsed
from atoll.serving.triton.tensors import as_bool, as_float, as_int

T = TypeVar("T")


class OptionReader:
    """Options by their canonical names; all methods raise ValidationError for wrong values."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def has(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str) -> Any:
        return self._values.get(name)

    def structure(self, name: str) -> Any:
        """A list or object, which may be JSON text."""
        value = self.get(name)
        return parsed(name, value) if isinstance(value, str) else value

    def text(self, name: str) -> str | None:
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise ValidationError(f"{name} is {value!r}; expected text")
        return value

    def flag(self, name: str, default: T) -> bool | T:
        return as_bool(name, self._values[name]) if name in self._values else default

    def integer(
        self, name: str, default: T, least: int | None = None, most: int | None = None
    ) -> int | T:
        return as_int(name, self._values[name], least, most) if name in self._values else default

    def count_or_flag(self, name: str, if_true: int, most: int) -> int | None:
        """A number, or a boolean that stands for ``if_true`` or None."""
        value = self.get(name)
        if isinstance(value, bool) or str(value).lower() in ("true", "false"):
            return if_true if as_bool(name, value) else None
        return self.integer(name, None, 0, most)

    def number(
        self, name: str, default: float, least: float | None = None, most: float | None = None
    ) -> float:
        return as_float(name, self._values[name], least, most) if self.has(name) else default

    def above_zero(self, name: str, default: float, most: float | None = None) -> float:
        value = self.number(name, default, 0.0, most)
        if value == 0.0:
            raise ValidationError(f"{name} is 0; it must be strictly positive")
        return value
