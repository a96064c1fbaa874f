"""The contents of strings with limited lengths, patterns or formats."""

from __future__ import annotations

from atoll.sampling.schema import patterns
from atoll.sampling.schema.automata import MAX_STATES, Language, TooManyStates
from atoll.sampling.schema.branches import Branch
from atoll.sampling.schema.counted import counted
from atoll.sampling.schema.document import Path, refusal
from atoll.sampling.schema.expressions import (
    NOTHING,
    Expression,
    Ranges,
    intersection,
    repeated,
)
from atoll.sampling.schema.formats import FORMATS, NUMBER_FORMATS, pattern_of
from atoll.sampling.schema.spelling import ANY, PLAIN, json_character, plain


def string_within(branch: Branch, rules: dict[str, Expression]) -> Expression:
    """A string that fits; ``rules`` is added to.

    Raises:
        ValidationError: a pattern or format that is not supported, or too many of them at once.
    """
    least, most = branch.most("minLength") or 0, branch.least("maxLength")
    if most is not None and most < least:
        return NOTHING
    by_pattern = {
        pattern: (f"pattern {pattern!r:.200}", (*path, "pattern"))
        for path, pattern in branch.values("pattern")
    }
    for path, name in branch.values("format"):
        pattern = pattern_of(name)
        if pattern is not None:
            by_pattern[pattern] = f"format {name!r}", (*path, "format")
        elif name not in NUMBER_FORMATS or branch.kinds == {"string"}:
            known = ", ".join(FORMATS)
            raise refusal((*path, "format"), f"format {name!r}", f"is not known; known: {known}")
    if not by_pattern:
        return _of_class(ANY, least, most)
    try:
        return _with_pattern(by_pattern, least, most, rules)
    except patterns.PatternError as error:
        pattern, (_, path) = next(iter(by_pattern.items()))
        raise refusal(path, repr(pattern)[:200], str(error)) from None


def _with_pattern(
    by_pattern: dict[str, tuple[str, Path]],
    least: int,
    most: int | None,
    rules: dict[str, Expression],
) -> Expression:
    """A string of all patterns; each with its name and path."""
    classes = [patterns.single_class(pattern) for pattern in by_pattern]
    known = [found for found in classes if found is not None]
    if len(known) == len(classes):
        ranges = ANY
        for more, fewest, largest in known:
            ranges, least = intersection(ranges, more), max(least, fewest)
            most = largest if most is None else most if largest is None else min(most, largest)
        return _of_class(ranges, least, most)
    if len(by_pattern) == 1:
        pattern = next(iter(by_pattern))
        shortest, longest = patterns.lengths(pattern)
        if shortest >= least and (most is None or (longest is not None and longest <= most)):
            return patterns.search(pattern, json_character)
    first = next(iter(by_pattern.values()))
    within = tuple(patterns.search(pattern, plain) for pattern in by_pattern)
    if len(within) == 1:
        found = counted(within[0], least, most, _of_class)
        if found is not None:
            return found
    try:
        language = Language(within, least=least, most=most)
        return language.expression(f"text-{len(rules)}", json_character, rules)
    except TooManyStates:
        limits = f" with minLength {least}" * bool(least)
        limits += f" with maxLength {most}" * (most is not None)
        reason = f"needs an automaton of more than {MAX_STATES} states{limits}"
        shown, path = " and ".join(name for name, _ in by_pattern.values()), first[1]
        raise refusal(path, shown, reason) from None


def _of_class(ranges: Ranges, least: int, most: int | None) -> Expression:
    """``least`` to ``most`` characters of a class.

    If they are counted, only unescaped characters are allowed, if there are any: it takes xgrammar
    seconds per token to count characters that may be escapes.
    """
    itself = intersection(ranges, PLAIN)
    is_counted = least > 1 or (most is not None and most > 1)
    return repeated(json_character(itself if is_counted and itself else ranges), least, most)
