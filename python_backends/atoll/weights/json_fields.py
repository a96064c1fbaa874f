"""Reads the values of a checkpoint's JSON files by type, and says what is wrong with one.

A key that is absent means what the library that wrote the file assumes, which the caller gives as
the default; a value of another type or out of range is an error that names the file, the key, the
value and what is expected. Null is absence only where that library takes it for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.errors import ConfigError

# Beyond every model there is; products of two still fit into 64 bits, and a list of so many layers
# into the memory.
MAX_SIZE = 1 << 28
MAX_LAYERS = 4096
_DTYPES = (
    "float16", "bfloat16", "float32", "float64", "half", "float", "double", "float8_e4m3fn",
    "float8_e5m2", "int8", "uint8", "auto",
)  # fmt: skip


class ConfigKeys(dict[str, Any]):
    """A JSON object that keeps account of what ``Fields`` read of it."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        super().__init__(raw)
        self.given: dict[str, Any] = {}
        self.assumed: dict[str, Any] = {}

    def summary(self) -> str:
        """What was read, and what was assumed in its absence, as part of an error's message."""
        given = ", ".join(f"{name} {shown(value)}" for name, value in self.given.items())
        text = f"config.json says {given}"
        if self.assumed:
            assumed = (f"{name} ({shown(value)} assumed)" for name, value in self.assumed.items())
            text += f", and has no {', no '.join(assumed)}"
        return text


@dataclass(frozen=True)
class Fields:
    """The keys of one JSON object; ``source`` is how errors call it.

    Methods take the names that a key had over the years: the first that is there is read, and
    another one must not contradict it. Without a default the key must be there.

    Raises:
        ConfigError: in every method.
    """

    raw: Mapping[str, Any]
    source: str = "config.json"
    account: ConfigKeys | None = None
    path: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.raw, ConfigKeys):
            object.__setattr__(self, "account", self.raw)

    def has(self, *names: str) -> bool:
        """Whether one of the names is there, and not null."""
        return any(self.raw.get(name) is not None for name in names)

    def name(self, *names: str) -> str:
        """The name that is read."""
        return next((n for n in names if self.raw.get(n) is not None), names[0])

    def size(
        self, *names: str, default: int | None = None, nullable: bool = False, most: int = MAX_SIZE
    ) -> int:
        """A whole number from 1 to ``most``."""
        return self.count(*names, default=default, nullable=nullable, least=1, most=most)

    def count(
        self,
        *names: str,
        default: int | None = None,
        nullable: bool = False,
        least: int = 0,
        most: int = MAX_SIZE,
    ) -> int:
        """A whole number from ``least`` to ``most``."""
        value = self._value(names, default, nullable)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(f"a whole number from {least} to {most}", *names)
        return value

    def token(self, *names: str, vocab_size: int, default: int | None = None) -> int:
        """A token's id: below ``vocab_size``."""
        value = self._value(names, default, nullable=default is not None)
        if type(value) is not int or not 0 <= value < vocab_size:
            raise self.wrong(f"a token's id from 0 to {vocab_size - 1}", *names)
        return value

    def number(
        self,
        *names: str,
        default: float | None = None,
        nullable: bool = False,
        above: float | None = 0.0,
        most: float = math.inf,
    ) -> float:
        """A finite number greater than ``above``, if that is given, and up to ``most``."""
        value = self._value(names, default, nullable)
        is_number = type(value) in (int, float) and math.isfinite(value)
        if not is_number or (above is not None and value <= above) or value > most:
            bounds = "" if above is None else f" above {above:g}"
            bounds += "" if most == math.inf else f", at most {most:g}"
            raise self.wrong(f"a finite number{bounds}", *names)
        return float(value)

    def flag(self, *names: str, default: bool | None = None, nullable: bool = False) -> bool:
        """True or false."""
        value = self._value(names, default, nullable)
        if type(value) is not bool:
            raise self.wrong("true or false", *names)
        return value

    def text(self, *names: str, default: str | None = None, nullable: bool = False) -> str:
        """A string."""
        value = self._value(names, default, nullable)
        if type(value) is not str:
            raise self.wrong("a text", *names)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; none where it is absent or null."""
        value = self.raw.get(name)
        self._note(name, value, [])
        found = [] if value is None else value
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise self.wrong("a list of texts", name)
        return tuple(found)

    def numbers(self, name: str, count: int, of_what: str) -> tuple[float, ...]:
        """A list of ``count`` finite numbers above 0; of_what: what makes them so many."""
        value = self.raw.get(name)
        self._note(name, value, None)
        if not isinstance(value, list) or len(value) != count or not all(map(_is_positive, value)):
            raise self.wrong(f"a list of {count} finite numbers above 0, {of_what}", name)
        return tuple(map(float, value))

    def counts(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers from 0 on; none where it is absent or null."""
        value = self.raw.get(name)
        self._note(name, value, [])
        found = [] if value is None else value
        if not isinstance(found, list) or not all(type(i) is int and i >= 0 for i in found):
            raise self.wrong("a list of whole numbers from 0 on", name)
        return tuple(found)

    def only(self, name: str, *allowed: Any) -> Any:
        """One of ``allowed``; the first where it is absent or null."""
        value = self.raw.get(name)
        self._note(name, value, allowed[0])
        if value is None:
            return allowed[0]
        # Not ``in``: 1 is no true.
        if not any(type(value) is type(other) and value == other for other in allowed):
            raise ConfigError(f"{self.source}: {name} is {value!r}; supported: {list(allowed)}")
        return value

    def inside(self, *names: str) -> Fields:
        """An object; empty where it is absent or null."""
        name = self.name(*names)
        value = {} if self.raw.get(name) is None else self.raw[name]
        if not isinstance(value, Mapping):
            raise self.wrong("an object", name)
        return Fields(value, f"{self.source}: {name}", self.account, f"{self.path}{name}.")

    def divided(
        self, total: int, names: tuple[str, ...], by: int, by_names: tuple[str, ...]
    ) -> int:
        """``total``, the value of ``names``, divided by that of ``by_names`` without a rest."""
        if total % by:
            raise ConfigError(
                f"{self.source}: {self.name(*names)} is {total}, which {self.name(*by_names)}, "
                f"{by}, does not divide"
            )
        return total // by

    def wrong(self, expected: str, *names: str) -> ConfigError:
        """The error for the value of a key."""
        name = next((n for n in names if n in self.raw), names[0])
        name = self.name(*names) if self.has(*names) else name
        return ConfigError(
            f"{self.source}: {name} is {shown(self.raw.get(name))}; expected {expected}"
        )

    def _value(self, names: tuple[str, ...], default: Any, nullable: bool) -> Any:
        given = {n: self.raw[n] for n in names if self.raw.get(n) is not None}
        if not given:
            is_null = any(name in self.raw for name in names)
            if default is None and not is_null:
                raise ConfigError(f"{self.source} has no {' and no '.join(names)}")
            self._note(" or ".join(names), None, default)
            return None if is_null and not nullable else default
        first, *others = given
        for other in others:
            if given[other] != given[first]:
                raise ConfigError(
                    f"{self.source}: {first} is {shown(given[first])} and {other} is "
                    f"{shown(given[other])}"
                )
        self._note(first, given[first], default)
        return given[first]

    def _note(self, name: str, value: Any, default: Any) -> None:
        if self.account is not None:
            noted = self.account.assumed if value is None else self.account.given
            noted[f"{self.path}{name}"] = default if value is None else value


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


def stored_dtype(fields: Fields) -> str | None:
    """What config.json calls the dtype of its weights, by torch's name; None where it does not."""
    name = "dtype" if fields.has("dtype") else "torch_dtype"
    if not fields.has(name):
        return None
    dtype = fields.text(name).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise fields.wrong(f"one of {', '.join(_DTYPES)}", name)
    return dtype


def read_labels(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """A classifier's labels by the index of their logits; config.json without any means two.

    Raises:
        ConfigError: ``id2label`` has other keys than 0, 1, ..., or ``num_labels`` another count.
    """
    fields, name = Fields(raw), "id2label"
    named = fields.inside(name).raw
    try:
        by_index = {int(key): str(label) for key, label in named.items()}
    except ValueError:
        by_index = {}
    if sorted(by_index) != list(range(len(named))):
        raise fields.wrong("labels by number, from 0 on", name)
    count = fields.size("num_labels", default=len(named) or 2, nullable=True)
    if named and count != len(named):
        raise fields.wrong(f"{len(named)}, the number of labels of {name}", "num_labels")
    return tuple(by_index[i] if named else f"LABEL_{i}" for i in range(count))


def shown(value: Any) -> str:
    """A value as the file has it, cut where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
