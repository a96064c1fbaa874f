"""Arrays of listed values that all differ: a rule for each set of values so far."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from atoll.sampling.schema.expressions import (
    EMPTY,
    NOTHING,
    Expression,
    Rule,
    Text,
    choice,
    concatenation,
)

MAX_STATES = 1024


class TooManySets(Exception):
    """There is no small grammar for so many values."""


class UniqueItems:
    """The items of one array, in any order.

    values: those that fit at an index; the same for all indices from ``num_listed`` on.
    """

    def __init__(
        self,
        values: Callable[[int], tuple[Any, ...]],
        num_listed: int,
        least: int,
        most: int | None,
        rules: dict[str, Expression],
    ) -> None:
        self._values, self._num_listed, self._rules = values, num_listed, rules
        self._least, self._most = least, most
        self._names: dict[tuple[int, frozenset[str]], str] = {}
        self._prefix = f"unique-{len(rules)}"

    def expression(self, separator: Expression) -> Expression:
        """The items with separators. Raises TooManySets."""
        return self._at(0, frozenset(), separator)

    def _at(self, index: int, used: frozenset[str], separator: Expression) -> Expression:
        """What may follow after ``index`` items, which have these values."""
        state = min(index, self._num_listed), used
        if state in self._names:
            return Rule(self._names[state])
        if len(self._names) >= MAX_STATES:
            raise TooManySets
        name = self._names[state] = f"{self._prefix}-{len(self._names)}"
        self._rules[name] = NOTHING  # its place, before the rules that it leads to
        options: list[Expression] = [EMPTY] if index >= self._least else []
        if self._most is None or index < self._most:
            for value in self._values(index):
                if (key := _key(value)) not in used:
                    text = Text(json.dumps(value, ensure_ascii=False))
                    rest = self._at(index + 1, used | {key}, separator)
                    options.append(concatenation(separator if index else EMPTY, text, rest))
        self._rules[name] = choice(options)
        return Rule(name)


def _key(value: Any) -> str:
    """The same for values that are equal as JSON: 1 and 1.0 are."""
    if isinstance(value, dict):
        return json.dumps({name: _key(value[name]) for name in sorted(value)})
    if isinstance(value, list):
        return json.dumps([_key(item) for item in value])
    is_whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if is_whole else value)
