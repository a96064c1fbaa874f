"""Texts that several expressions describe at once, or do not, as rules of a finite automaton.

A state holds, for each expression, what may still follow (partial derivatives: V. Antimirov,
"Partial derivatives of regular expressions and finite automaton constructions", 1996), and the
number of characters so far. So intersections, complements and lengths are exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from atoll.sampling.schema.expressions import (
    EMPTY,
    NOTHING,
    Characters,
    Choice,
    Concatenation,
    Expression,
    Ranges,
    Repeated,
    Rule,
    Text,
    choice,
    concatenation,
    intersection,
    repeated,
)
from atoll.sampling.schema.spelling import ANY, Spelling

# xgrammar needs up to a tenth of a second for each state; some that are found lead nowhere.
MAX_STATES = 128
_MAX_FOUND = 2000

# What may follow in an expression: one of these.
_Rest = frozenset[Expression]


class TooManyStates(Exception):
    """There is no small automaton for these texts."""


@dataclass(frozen=True)
class Language:
    """Texts that all of ``within`` match and none of ``without``, of a limited length.

    The expressions are those of plain characters, without rules.
    """

    within: tuple[Expression, ...] = ()
    without: tuple[Expression, ...] = ()
    least: int = 0
    most: int | None = None

    def expression(self, name: str, spelling: Spelling, rules: dict[str, Expression]) -> Expression:
        """The grammar of these texts; ``rules`` is added to, with names that begin with ``name``.

        Raises:
            TooManyStates: ``MAX_STATES`` do not suffice.
        """
        return _Automaton(self).expression(name, spelling, rules)


@dataclass(frozen=True)
class _State:
    within: tuple[_Rest, ...]
    without: tuple[_Rest, ...]
    count: int


class _Automaton:
    """All states that lead to an end, from the first on."""

    def __init__(self, language: Language) -> None:
        self._language = language
        # Longer counts change nothing.
        self._cap = language.least if language.most is None else language.most
        first = _State(
            tuple(frozenset([part]) for part in language.within),
            tuple(frozenset([part]) for part in language.without),
            0,
        )
        self._next: dict[_State, dict[_State, Ranges]] = {}
        self._steps: dict[tuple[_Rest, ...], list[tuple[tuple[_Rest, ...], Ranges]]] = {}
        self._explore(first)
        self.alive = self._living()
        self._first = first

    def _explore(self, first: _State) -> None:
        pending = [first]
        while pending:
            state = pending.pop()
            if state in self._next:
                continue
            if len(self._next) >= _MAX_FOUND:
                raise TooManyStates
            found = self._next[state] = dict(self._following(state))
            pending += [after for after in found if after not in self._next]

    def _following(self, state: _State) -> Iterator[tuple[_State, Ranges]]:
        """Each next state once, with the characters that lead to it."""
        most = self._language.most
        if most is not None and state.count >= most:
            return
        count = min(state.count + 1, self._cap)
        num_within = len(state.within)
        both = state.within + state.without
        if both not in self._steps:
            self._steps[both] = _combined(both)
        for rests, ranges in self._steps[both]:
            within = rests[:num_within]
            if all(within):
                yield _State(within, rests[num_within:], count), ranges

    def _living(self) -> set[_State]:
        before: dict[_State, list[_State]] = {}
        for state, found in self._next.items():
            for after in found:
                before.setdefault(after, []).append(state)
        pending = [state for state in self._next if self._is_end(state)]
        alive: set[_State] = set()
        while pending:
            state = pending.pop()
            if state not in alive:
                alive.add(state)
                pending += before.get(state, ())
        return alive

    def _is_end(self, state: _State) -> bool:
        return (
            state.count >= self._language.least
            and all(any(map(_may_end, rest)) for rest in state.within)
            and not any(any(map(_may_end, rest)) for rest in state.without)
        )

    def expression(self, name: str, spelling: Spelling, rules: dict[str, Expression]) -> Expression:
        """See ``Language.expression``."""
        if len(self.alive) > MAX_STATES:
            raise TooManyStates
        if self._first not in self.alive:
            return NOTHING
        living = (state for state in self._next if state in self.alive)
        names = {state: f"{name}-{index}" for index, state in enumerate(living)}

        def classes(ranges: Ranges) -> Expression:
            """A rule for each class, since many states have the same ones."""
            known = named.setdefault(ranges, f"{name}-of-{len(named)}")
            rules.setdefault(known, spelling(ranges))
            return Rule(known)

        named: dict[Ranges, str] = {}
        for state, own in names.items():
            following = [
                concatenation(classes(ranges), Rule(names[after]))
                for after, ranges in self._next[state].items()
                if after in names
            ]
            rules[own] = choice([EMPTY, *following] if self._is_end(state) else following)
        return Rule(names[self._first])


def _combined(rests: Sequence[_Rest]) -> list[tuple[tuple[_Rest, ...], Ranges]]:
    """What may follow after one character in each expression, by the characters.

    Every character is in the ranges of exactly one result.
    """
    by_rest = [_steps(rest) for rest in rests]
    every = [ANY, *(ranges for steps in by_rest for _, ranges in steps)]
    edges = {edge for ranges in every for first, last in ranges for edge in (first, last + 1)}
    found: dict[tuple[_Rest, ...], list[tuple[int, int]]] = {}
    for start, end in itertools.pairwise(sorted(edges)):
        if not _holds(ANY, start):
            continue
        after = tuple(
            frozenset(part for part, ranges in own if _holds(ranges, start)) for own in by_rest
        )
        found.setdefault(after, []).append((start, end - 1))
    return [(after, intersection(tuple(ranges), ANY)) for after, ranges in found.items()]


def _holds(ranges: Ranges, point: int) -> bool:
    return any(first <= point <= last for first, last in ranges)


def _steps(rest: _Rest) -> tuple[tuple[Expression, Ranges], ...]:
    """What may follow after one character, with the characters."""
    return tuple(step for expression in rest for step in _derived(expression))


@lru_cache(maxsize=20_000)
def _derived(expression: Expression) -> tuple[tuple[Expression, Ranges], ...]:
    match expression:
        case Text("") | Choice(()):
            return ()
        case Text(text):
            return ((Text(text[1:]), ((ord(text[0]), ord(text[0])),)),)
        case Characters(ranges):
            return ((EMPTY, ranges),)
        case Choice(parts):
            return tuple(dict.fromkeys(step for part in parts for step in _derived(part)))
        case Concatenation(parts):
            rest = concatenation(*parts[1:])
            found = [(concatenation(a, rest), ranges) for a, ranges in _derived(parts[0])]
            return tuple([*found, *(_derived(rest) if _may_end(parts[0]) else ())])
        case Repeated(part, least, most):
            left = max(least - 1, 0)
            again = repeated(part, left, None if most is None else most - 1)
            return tuple((concatenation(a, again), ranges) for a, ranges in _derived(part))
    raise TypeError(f"{expression} is not the expression of plain characters")


@lru_cache(maxsize=20_000)
def _may_end(expression: Expression) -> bool:
    """Whether the empty text fits."""
    match expression:
        case Text(text):
            return not text
        case Concatenation(parts):
            return all(map(_may_end, parts))
        case Choice(parts):
            return any(map(_may_end, parts))
        case Repeated(part, least, _):
            return least == 0 or _may_end(part)
    return False
