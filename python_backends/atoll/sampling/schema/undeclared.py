"""Properties that a schema does not declare: by ``patternProperties``, or any other name.

Where patterns may match one name, or a declared one, names are divided by the patterns that they
match, each set of patterns with the schemas that go with it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence

from atoll.sampling.schema import patterns
from atoll.sampling.schema.automata import MAX_STATES, Language, TooManyStates
from atoll.sampling.schema.branches import Branch, Branches, Paths
from atoll.sampling.schema.conditions import Path
from atoll.sampling.schema.document import Document, refusal
from atoll.sampling.schema.expressions import (
    NOTHING,
    Expression,
    Text,
    choice,
    concatenation,
)
from atoll.sampling.schema.spelling import (
    json_character,
    json_string,
    other_than,
    plain,
)
from atoll.sampling.schema.strings import string_within

COLON = Text(": ")
_MAX_PATTERNS = 4


class Undeclared:
    """Builds the expressions of branches; ``value`` returns the rule of a set of subschemas."""

    def __init__(
        self,
        document: Document,
        branches: Branches,
        value: Callable[[Paths], Expression],
        rules: dict[str, Expression],
    ) -> None:
        self._document, self._branches, self._value, self._rules = document, branches, value, rules

    def property(self, branch: Branch, names: Sequence[str], least: int) -> Expression:
        """One property with a name that is not among ``names``, the declared ones.

        NOTHING if there may be none: neither ``additionalProperties`` nor ``least`` asks for it.

        Raises:
            ValidationError: something is not supported.
        """
        others = branch.absent.union(names)
        rest = branch.paths("additionalProperties") or branch.unevaluated("unevaluatedProperties")
        is_listed = bool(names or branch.values("properties"))
        is_open = all(self._document.at(path) is not False for path in rest)
        if branch.values("patternProperties"):
            return self._by_pattern(branch, others, is_open=bool(rest) and is_open)
        if not is_open or (not rest and is_listed and least <= len(names)):
            return NOTHING
        limits = tuple(branch.paths("propertyNames"))
        value = self._value(tuple(dict.fromkeys(rest)))
        if not limits:
            return concatenation(json_string(other_than(others, json_character)), COLON, value)
        options = [option for option in self._branches.of(limits) if "string" in option.kinds]
        if all(option.literals is not None for option in options):
            return NOTHING  # they are among the names
        if any(option.literals is not None for option in options):
            raise refusal(limits[0], "propertyNames", "that lists names beside others")
        fitting = {n for n in others if all(self._document.holds(n, limit) for limit in limits)}
        keys = (string_within(option, self._rules, fitting) for option in options)
        return concatenation(choice(map(json_string, keys)), COLON, value)

    def _by_pattern(self, branch: Branch, others: frozenset[str], *, is_open: bool) -> Expression:
        """Properties whose names match a pattern and, if ``is_open``, those that match none."""
        path, found = branch.values("patternProperties")[0][0], _patterns(branch)
        if branch.values("propertyNames"):
            raise refusal(path, "patternProperties", "beside propertyNames is not supported")
        if len(found) > _MAX_PATTERNS and not _are_apart(found):
            reason = f"with more than {_MAX_PATTERNS} patterns that may match one name"
            raise refusal(path, "patternProperties", f"{reason} is not supported")
        name = f"names-{len(self._rules)}"
        parts = []
        try:
            for index, matched in enumerate(_divided(found, is_open=is_open)):
                paths = undeclared_paths(branch, matched)
                if any(self._document.at(path) is False for path in paths):
                    continue
                key = self._key(matched, found, others, f"{name}-{index}")
                parts.append(concatenation(json_string(key), COLON, self._value(paths)))
        except patterns.PatternError as error:
            raise refusal(path, "patternProperties", str(error)) from None
        except TooManyStates:
            reason = f"needs an automaton of more than {MAX_STATES} states for names"
            raise refusal(path, "patternProperties", reason) from None
        return choice(parts)

    def _key(
        self, matched: Sequence[str], found: Sequence[str], others: frozenset[str], name: str
    ) -> Expression:
        """Names that match these patterns, but no other ones of the branch."""
        excluded = [text for text in others if all(re.search(p, text) for p in matched)]
        if len(matched) == 1 and not excluded and _are_apart(found):
            return patterns.search(matched[0], json_character)
        within = tuple(patterns.search(pattern, plain) for pattern in matched)
        without = [
            patterns.search(pattern, plain, is_wide=True)
            for pattern in found
            if pattern not in matched
        ]
        language = Language(within, (*without, choice(map(Text, sorted(excluded)))))
        return language.expression(name, json_character, self._rules)


def property_paths(branch: Branch, name: str) -> Paths:
    """The subschemas that the property of a name has to fit.

    Raises:
        ValidationError: a pattern is not supported.
    """
    return _paths(branch, name, lambda path, pattern: _matches(path, pattern, name))


def undeclared_paths(branch: Branch, matched: Sequence[str]) -> Paths:
    """The same for a name that is not declared and matches just these patterns."""
    return _paths(branch, None, lambda _, pattern: pattern in matched)


def _paths(branch: Branch, name: str | None, matches: Callable[[Path, str], bool]) -> Paths:
    found: list[Path] = []
    is_evaluated = False
    for part in branch.parts:
        own: list[Path] = []
        if name in part.keywords.get("properties", ()):
            own.append((*part.path, "properties", str(name)))
        for pattern in part.keywords.get("patternProperties", ()):
            if matches(part.path, pattern):
                own.append((*part.path, "patternProperties", pattern))
        if not own and "additionalProperties" in part.keywords:
            own.append((*part.path, "additionalProperties"))
        found += own
        is_evaluated = is_evaluated or bool(own)
    if not is_evaluated:
        found += branch.unevaluated("unevaluatedProperties")
    return tuple(dict.fromkeys(found))


def _matches(path: Path, pattern: str, name: str) -> bool:
    try:
        patterns.parse(pattern)
        return re.search(pattern, name) is not None
    except (patterns.PatternError, re.error) as error:
        raise refusal((*path, "patternProperties"), repr(pattern)[:200], str(error)) from None


def _patterns(branch: Branch) -> list[str]:
    """Each once. Raises ValidationError: one is not supported."""
    found: dict[str, None] = {}
    for path, by_pattern in branch.values("patternProperties"):
        for pattern in by_pattern:
            _matches(path, pattern, "")
            found[pattern] = None
    return list(found)


def _divided(found: Sequence[str], *, is_open: bool) -> Iterator[tuple[str, ...]]:
    """The sets of patterns that a name may match; the empty one if ``is_open``."""
    if is_open:
        yield ()
    most = 1 if _are_apart(found) else len(found)
    for count in range(1, most + 1):
        yield from itertools.combinations(found, count)


def _are_apart(found: Sequence[str]) -> bool:
    """Whether it is certain that no name matches two of the patterns."""
    pairs = itertools.combinations(map(patterns.prefix, found), 2)
    return not any(one.startswith(other) or other.startswith(one) for one, other in pairs)
