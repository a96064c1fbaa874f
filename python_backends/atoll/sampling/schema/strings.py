"""The contents of strings with limited lengths, patterns or formats."""

from __future__ import annotations

from atoll.sampling.schema import patterns
from atoll.sampling.schema.branches import Branch
from atoll.sampling.schema.document import Path, refusal
from atoll.sampling.schema.expressions import (
    NOTHING,
    Expression,
    Ranges,
    intersection,
    repeated,
)
from atoll.sampling.schema.formats import FORMATS, NUMBER_FORMATS, pattern_of
from atoll.sampling.schema.spelling import ANY, PLAIN, json_character


def string_within(branch: Branch) -> Expression:
    """A string that fits. Raises ValidationError: a combination that is not supported."""
    least, most = branch.most("minLength") or 0, branch.least("maxLength")
    if most is not None and most < least:
        return NOTHING
    found = dict.fromkeys(
        (pattern, (*path, "pattern")) for path, pattern in branch.values("pattern")
    )
    for path, name in branch.values("format"):
        pattern = pattern_of(name)
        if pattern is not None:
            found[pattern, (*path, "format")] = None
        elif name not in NUMBER_FORMATS or branch.kinds == {"string"}:
            known = ", ".join(FORMATS)
            raise refusal((*path, "format"), f"format {name!r}", f"is not known; known: {known}")
    by_pattern = {pattern: path for pattern, path in found}
    if not by_pattern:
        return _of_class(ANY, least, most)
    try:
        return _with_pattern(by_pattern, least, most)
    except patterns.PatternError as error:
        pattern, path = next(iter(by_pattern.items()))
        raise refusal(path, repr(pattern)[:200], str(error)) from None


def _with_pattern(by_pattern: dict[str, Path], least: int, most: int | None) -> Expression:
    classes = [patterns.single_class(pattern) for pattern in by_pattern]
    known = [found for found in classes if found is not None]
    if len(known) == len(classes):
        ranges = ANY
        for more, fewest, largest in known:
            ranges, least = intersection(ranges, more), max(least, fewest)
            most = largest if most is None else most if largest is None else min(most, largest)
        return _of_class(ranges, least, most)
    (pattern, path), *others = by_pattern.items()
    if others:
        raise refusal(path, str(path[-1]), f"and {others[0][0]!r:.200} at once are not supported")
    shortest, longest = patterns.lengths(pattern)
    if shortest < least or (most is not None and (longest is None or longest > most)):
        reason = (
            f"has texts of {shortest} to {'any number of' if longest is None else longest} "
            "characters; minLength and maxLength beside it are not supported: say them in it"
        )
        raise refusal(path, f"{path[-1]} {pattern!r:.200}", reason)
    return patterns.search(pattern, json_character)


def _of_class(ranges: Ranges, least: int, most: int | None) -> Expression:
    """``least`` to ``most`` characters of a class.

    If they are counted, only unescaped characters are allowed, if there are any: it takes xgrammar
    seconds per token to count characters that may be escapes.
    """
    itself = intersection(ranges, PLAIN)
    is_counted = least > 1 or (most is not None and most > 1)
    return repeated(json_character(itself if is_counted and itself else ranges), least, most)
