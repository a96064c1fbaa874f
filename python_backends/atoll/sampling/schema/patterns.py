"""Regular expressions as grammars.

Parsed by Python's own parser, then restricted to what Python and ECMAScript have in common: of two
definitions of a class, the narrower is used, and what only one of them supports is refused by name.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from atoll.sampling.schema.expressions import (
    EMPTY,
    Expression,
    Ranges,
    choice,
    complement,
    concatenation,
    intersection,
    repeated,
    union,
)
from atoll.sampling.schema.spelling import ANY, Spelling

# The limit of all repetitions in a pattern, where nested ones are multiplied.
_MAX_REPEATS = 1_000_000
_DIGIT: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Ranges = ((0x09, 0x0D), (0x20, 0x20))
# Spaces and line ends by either definition.
_ANY_SPACE: Ranges = (
    (0x09, 0x0D), (0x1C, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A),
    (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
_LINE_END: Ranges = ((0x0A, 0x0A),)
_LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_TOKEN = re.compile(r"\\(?:.|$)|\(\?<?[^()]?|\[\[[:=.]|\[\^?\]?|[^\\(\[]+|[(\[]", re.DOTALL)
_NAMED_GROUP = re.compile(r"((?:[^\\]|\\.)*?)\(\?<([A-Za-z_$][\w$]*)>", re.DOTALL)
_REFUSED = {
    "ASSERT": "a lookahead or lookbehind", "ASSERT_NOT": "a lookahead or lookbehind",
    "GROUPREF": "a back-reference", "GROUPREF_EXISTS": "a conditional group",
    "POSSESSIVE_REPEAT": "a possessive quantifier", "ATOMIC_GROUP": "an atomic group",
}  # fmt: skip


class PatternError(Exception):
    """The pattern contains something that is not supported."""


def whole(pattern: str, spelling: Spelling) -> Expression:
    """Texts that a pattern matches from beginning to end. Raises PatternError."""
    return _branches(parse(pattern), _Spelled(spelling), is_search=False)


def search(pattern: str, spelling: Spelling, *, is_wide: bool = False) -> Expression:
    """Texts in which a pattern is found somewhere, unless it is anchored.

    is_wide: by the wider definition of each class, for texts that are to be excluded.

    Raises:
        PatternError: something is not supported.
    """
    return _branches(parse(pattern), _Spelled(spelling, is_wide), is_search=True)


def lengths(pattern: str) -> tuple[int, int | None]:
    """The least and most characters of what ``search`` gives."""
    least, most = parse(pattern).getwidth()
    is_open = any(_ends_open(branch) for branch in _alternatives(parse(pattern)))
    return int(least), None if is_open or most >= sys.maxunicode else int(most)


def prefix(pattern: str) -> str:
    """The text that every match begins with, if the pattern is anchored at its beginning."""
    found = ""
    items = list(parse(pattern))
    if not items or _kind(items[0]) != "AT" or _anchor(items[0]) != "^":
        return ""
    for item in items[1:]:
        if _kind(item) != "LITERAL":
            break
        found += chr(item[1])
    return found


def single_class(pattern: str) -> tuple[Ranges, int, int | None] | None:
    """The class, least and most of ``^[class]{least,most}$``; None for other patterns."""
    items = list(parse(pattern))
    if len(items) != 3 or [_kind(items[0]), _kind(items[2])] != ["AT", "AT"]:
        return None
    if (_anchor(items[0]), _anchor(items[2])) != ("^", "$"):
        return None
    if _kind(items[1]) not in ("MAX_REPEAT", "MIN_REPEAT"):
        return None
    least, most, inner = items[1][1]
    if len(inner) != 1 or _kind(inner[0]) not in ("IN", "LITERAL", "NOT_LITERAL", "ANY"):
        return None
    return _ranges(inner[0]), int(least), _most(most)


@dataclass(frozen=True)
class _Spelled:
    """How characters are written, and whether classes are those of the wider definition."""

    spelling: Spelling
    is_wide: bool = False

    def __call__(self, item: Any) -> Expression:
        """The characters that one item of a pattern stands for."""
        return self.spelling(_ranges(item, is_wide=self.is_wide))


@lru_cache(maxsize=256)
def parse(pattern: str) -> Any:
    """Python's syntax tree. Raises PatternError."""
    _check_syntax(pattern)
    while named := _NAMED_GROUP.match(pattern):
        pattern = f"{named[1]}(?P<{named[2]}>{pattern[named.end() :]}"
    try:
        from re import _parser  # type: ignore[attr-defined]
    except ImportError:  # Python 3.10
        import sre_parse as _parser
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            tree = _parser.parse(pattern)
    except RecursionError:
        raise PatternError("is nested too deeply") from None
    except (re.error, OverflowError) as error:
        raise PatternError(f"cannot be read: {error}") from None
    if tree.state.flags & ~re.UNICODE.value:
        raise PatternError("has flags, which are not supported")
    return tree


def _check_syntax(pattern: str) -> None:
    """Refuses what Python's parser accepts but ECMAScript reads differently."""
    for token in _TOKEN.findall(pattern):
        if token in ("[]", "[^]"):
            raise PatternError(f"has {token}, which Python and ECMAScript read differently")
        if token in ("[[:", "[[=", "[[."):
            raise PatternError(f"has {token}, a class that ECMAScript does not know")
        if token in ("\\A", "\\Z", "\\a"):
            raise PatternError(f"has {token}, which ECMAScript does not know")
        if token.startswith("(?") and token[2:3] not in (":", "=", "!", "<", "P", ">", "("):
            raise PatternError("has flags or a comment, which are not supported")
    if re.search(r"(?<!\\)\{,\d", pattern):
        raise PatternError("has {,n}, which Python and ECMAScript read differently")


def _branches(tree: Sequence[Any], spelled: _Spelled, *, is_search: bool) -> Expression:
    """The alternatives of the whole pattern, each with its anchors or, in a search, without."""
    anything = repeated(spelled.spelling(ANY)) if is_search else EMPTY
    found = []
    for items in _alternatives(tree):
        start, end = 0, len(items)
        while start < end and _kind(items[start]) == "AT" and _anchor(items[start]) == "^":
            start += 1
        while end > start and _kind(items[end - 1]) == "AT" and _anchor(items[end - 1]) == "$":
            end -= 1
        inner = _sequence(items[start:end], spelled)
        before = EMPTY if start else anything
        after = EMPTY if end < len(items) else anything
        found.append(concatenation(before, inner, after))
    return choice(found)


def _alternatives(tree: Sequence[Any]) -> list[list[Any]]:
    """A pattern's alternatives, also if they are inside one group or follow a ``^``."""
    items = list(tree)
    for at, item in enumerate(items):
        kind = _kind(item)
        branches = item[1][1] if kind == "BRANCH" else None
        if kind == "SUBPATTERN" and item[1][1:3] == (0, 0):
            branches = [item[1][3]]
        if branches is None or not any(_has_anchor(branch) for branch in branches):
            if kind == "BRANCH" and len(items) == 1:
                return [found for branch in branches or () for found in _alternatives(branch)]
            continue
        before, after = items[:at], items[at + 1 :]
        combined = [[*before, *branch, *after] for branch in branches]
        return [found for branch in combined for found in _alternatives(branch)]
    return [items]


def _has_anchor(items: Sequence[Any]) -> bool:
    for item in items:
        kind = _kind(item)
        if kind == "AT":
            return True
        inner = item[1][1] if kind == "BRANCH" else [item[1][3]] if kind == "SUBPATTERN" else []
        if any(_has_anchor(part) for part in inner):
            return True
    return False


def _ends_open(items: Sequence[Any]) -> bool:
    if not items:
        return True
    first, last = items[0], items[-1]
    return not (_kind(first) == "AT" and _anchor(first) == "^") or not (
        _kind(last) == "AT" and _anchor(last) == "$"
    )


def _sequence(items: Sequence[Any], spelled: _Spelled) -> Expression:
    return concatenation(*(_item(item, spelled) for item in items))


def _item(item: Any, spelled: _Spelled) -> Expression:
    kind = _kind(item)
    if kind in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
        return spelled(item)
    if kind == "BRANCH":
        return choice(_sequence(branch, spelled) for branch in item[1][1])
    if kind == "SUBPATTERN":
        _, added, removed, inner = item[1]
        if added or removed:
            raise PatternError("has flags, which are not supported")
        return _sequence(inner, spelled)
    if kind in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, inner = item[1]
        if max(least, _most(most) or 0) > _MAX_REPEATS:
            raise PatternError(f"repeats more than {_MAX_REPEATS} times")
        return repeated(_sequence(inner, spelled), int(least), _most(most))
    if kind == "AT":
        raise PatternError(f"has {_anchor(item)} inside, which is not supported")
    raise PatternError(f"has {_REFUSED.get(kind, kind)}, which is not supported")


def _kind(item: Any) -> str:
    return str(item[0])


def _anchor(item: Any) -> str:
    names = {"AT_BEGINNING": "^", "AT_END": "$", "AT_BOUNDARY": "\\b", "AT_NON_BOUNDARY": "\\B"}
    return names.get(str(item[1]), str(item[1]))


def _most(most: Any) -> int | None:
    return None if str(most) == "MAXREPEAT" else int(most)


def _ranges(item: Any, *, is_wide: bool = False) -> Ranges:
    """The characters that one item of a pattern stands for."""
    kind = _kind(item)
    if kind == "LITERAL":
        return ((item[1], item[1]),)
    if kind == "NOT_LITERAL":
        return complement(((item[1], item[1]),))
    if kind == "ANY":
        return complement(_LINE_END if is_wide else _LINE_ENDS)
    members = list(item[1])
    is_negated = bool(members) and _kind(members[0]) == "NEGATE"
    found: list[tuple[int, int]] = []
    for member in members[is_negated:]:
        name, value = _kind(member), member[1]
        if name == "LITERAL":
            found.append((value, value))
        elif name == "RANGE":
            found.append((int(value[0]), int(value[1])))
        else:
            found += _category(str(value), is_wide=is_negated != is_wide)
    return complement(union(found)) if is_negated else intersection(union(found), ANY)


def _category(name: str, *, is_wide: bool) -> Ranges:
    """\\d, \\w, \\s and their complements, as defined by both languages, or by either (is_wide)."""
    kind = name.removeprefix("CATEGORY_").removeprefix("NOT_")
    narrow = {"DIGIT": _DIGIT, "WORD": _WORD, "SPACE": _SPACE}[kind]
    wide = _ANY_SPACE if kind == "SPACE" else _in_python(kind)
    if "NOT_" in name:
        return complement(narrow if is_wide else wide)
    return wide if is_wide else narrow


@lru_cache(maxsize=2)
def _in_python(kind: str) -> Ranges:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    matches = re.finditer(r"\d+" if kind == "DIGIT" else r"\w+", everything)
    return tuple((match.start(), match.end() - 1) for match in matches)
