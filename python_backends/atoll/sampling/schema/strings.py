"""The contents of strings with limited lengths, patterns or formats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from atoll.sampling.schema import patterns
from atoll.sampling.schema.automata import MAX_STATES, Language, TooManyStates
from atoll.sampling.schema.branches import Branch
from atoll.sampling.schema.conditions import Path
from atoll.sampling.schema.counted import counted
from atoll.sampling.schema.document import refusal
from atoll.sampling.schema.expressions import (
    NOTHING,
    Expression,
    Ranges,
    Text,
    choice,
    intersection,
    repeated,
)
from atoll.sampling.schema.formats import FORMATS, NUMBER_FORMATS, pattern_of
from atoll.sampling.schema.spelling import ANY, PLAIN, json_character, plain


class _Named(NamedTuple):
    """A pattern of the schema, or of a format."""

    pattern: str
    shown: str
    path: Path


def string_within(
    branch: Branch, rules: dict[str, Expression], excluded: Iterable[str] = ()
) -> Expression:
    """A string that fits and is not excluded; ``rules`` is added to.

    Raises:
        ValidationError: a pattern or format that is not supported, or too many of them at once.
    """
    least, most = branch.most("minLength") or 0, branch.least("maxLength")
    if most is not None and most < least:
        return NOTHING
    within = _patterns(branch)
    nots = [(path, found) for path, found in branch.values("not") if "required" not in found]
    texts = {*excluded, *(text for _, found in nots for text in found.get("enum", ()))}
    without = [
        _Named(pattern, f"not pattern {pattern!r:.200}", (*path, "not", "pattern"))
        for path, found in nots
        if (pattern := found.get("pattern")) is not None
    ]
    if not (texts or without):
        found = _counted([named.pattern for named in within.values()], least, most)
        if found is not None:
            return found
    language = Language(
        tuple(_search(named) for named in within.values()),
        (choice(map(Text, sorted(texts))), *(_search(named, is_wide=True) for named in without)),
        least,
        most,
    )
    try:
        return language.expression(f"text-{len(rules)}", json_character, rules)
    except TooManyStates:
        every = [*within.values(), *without]
        shown = " and ".join(named.shown for named in every) or "not"
        limits = f" with minLength {least}" * bool(least)
        limits += f" with maxLength {most}" * (most is not None)
        reason = f"needs an automaton of more than {MAX_STATES} states{limits}"
        path = every[0].path if every else branch.parts[0].path
        raise refusal(path, shown, reason) from None


def _patterns(branch: Branch) -> dict[str, _Named]:
    """Each pattern once. Raises ValidationError: an unknown format."""
    found = {
        pattern: _Named(pattern, f"pattern {pattern!r:.200}", (*path, "pattern"))
        for path, pattern in branch.values("pattern")
    }
    for path, name in branch.values("format"):
        pattern = pattern_of(name)
        if pattern is not None:
            found[pattern] = _Named(pattern, f"format {name!r}", (*path, "format"))
        elif name not in NUMBER_FORMATS or branch.kinds == {"string"}:
            known = ", ".join(FORMATS)
            raise refusal((*path, "format"), f"format {name!r}", f"is not known; known: {known}")
    for named in found.values():
        _search(named)
    return found


def _search(named: _Named, *, is_wide: bool = False) -> Expression:
    """The texts of plain characters in which a pattern is found. Raises ValidationError."""
    try:
        return patterns.search(named.pattern, plain, is_wide=is_wide)
    except patterns.PatternError as error:
        raise refusal(named.path, repr(named.pattern)[:200], str(error)) from None


def _counted(within: Sequence[str], least: int, most: int | None) -> Expression | None:
    """Strings of these patterns, if that takes no automaton."""
    classes = [patterns.single_class(pattern) for pattern in within]
    known = [found for found in classes if found is not None]
    if len(known) == len(classes):
        ranges = ANY
        for more, fewest, largest in known:
            ranges, least = intersection(ranges, more), max(least, fewest)
            most = largest if most is None else most if largest is None else min(most, largest)
        return _of_class(ranges, least, most)
    if len(within) > 1:
        return None
    shortest, longest = patterns.lengths(within[0])
    if shortest >= least and (most is None or (longest is not None and longest <= most)):
        return patterns.search(within[0], json_character)
    return counted(patterns.search(within[0], plain), least, most, _of_class)


def _of_class(ranges: Ranges, least: int, most: int | None) -> Expression:
    """``least`` to ``most`` characters of a class.

    If they are counted, only unescaped characters are allowed, if there are any: it takes xgrammar
    seconds per token to count characters that may be escapes.
    """
    itself = intersection(ranges, PLAIN)
    is_counted = least > 1 or (most is not None and most > 1)
    return repeated(json_character(itself if is_counted and itself else ranges), least, most)
