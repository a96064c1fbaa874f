"""Converts a JSON schema to a grammar; every text of the grammar is JSON that fits the schema.

Nothing is approximated: what a grammar cannot express is refused by name. A grammar may have fewer
texts than there are valid values: properties come in the schema's order, objects with
``properties`` have no others unless the schema asks for them, and every character has one spelling.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from atoll.errors import ValidationError
from atoll.sampling.schema import numbers, patterns
from atoll.sampling.schema.branches import ANYTHING, Branch, Branches, Paths
from atoll.sampling.schema.conditions import Path
from atoll.sampling.schema.document import Document, refusal
from atoll.sampling.schema.expressions import (
    EMPTY,
    NOTHING,
    Expression,
    Rule,
    Text,
    choice,
    concatenation,
    ebnf,
    repeated,
    without_dead_ends,
)
from atoll.sampling.schema.formats import NUMBER_FORMATS
from atoll.sampling.schema.objects import Objects
from atoll.sampling.schema.spelling import json_string, plain
from atoll.sampling.schema.strings import string_within
from atoll.sampling.schema.unique import MAX_STATES, TooManySets, UniqueItems

_MAX_RULES = 20_000
SEPARATOR = Text(", ")


def json_grammar(source: str) -> str:
    """The grammar of a schema's JSON text, in xgrammar's EBNF.

    Raises:
        ValidationError: an invalid schema, or a keyword that is not supported; names it.
    """
    document = Document.read(source)
    builder = _Builder(document)
    try:
        root = builder.value(((),))
        builder.complete()
    except RecursionError:
        raise ValidationError("the json_schema is not valid: it is nested too deeply") from None
    rules = without_dead_ends({"root-value": root, **builder.rules})
    if "root-value" not in rules:
        raise ValidationError("the json_schema is not valid: no finite value fits it")
    return ebnf(rules.pop("root-value"), rules)


class _Builder:
    """Builds the rule of each set of subschemas once; newly found sets are queued."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._branches = Branches(document)
        self._names: dict[Paths, str] = {}
        self._pending: list[Paths] = []
        self.rules: dict[str, Expression] = {}
        self._objects = Objects(document, self._branches, self.value, self.rules)

    def value(self, paths: Paths) -> Expression:
        """A value that fits all subschemas of a set; any value if the set is empty."""
        if paths not in self._names:
            self._names[paths] = f"value-{len(self._names)}"
            self._pending.append(paths)
        return Rule(self._names[paths])

    def complete(self) -> None:
        """Builds all rules that are referred to."""
        while self._pending:
            paths = self._pending.pop()
            branches = self._branches.of(paths) if paths else [ANYTHING]
            self.rules[self._names[paths]] = choice(map(self._branch, branches))
            if len(self.rules) > _MAX_RULES:
                raise refusal((), "the schema", f"needs more than {_MAX_RULES} rules")

    def _branch(self, branch: Branch) -> Expression:
        if branch.literals is not None:
            return choice(
                Text(json.dumps(value, ensure_ascii=False)) for (value,) in branch.literals
            )
        made: dict[str, Callable[[Branch], Expression]] = {
            "null": lambda _: Text("null"),
            "boolean": lambda _: choice([Text("true"), Text("false")]),
            "string": lambda found: json_string(string_within(found, self.rules)),
            "array": self._array,
            "object": self._objects.expression,
        }
        parts = [build(branch) for kind, build in made.items() if kind in branch.kinds]
        if "integer" in branch.kinds:
            parts.append(self._number(branch, is_whole="number" not in branch.kinds))
        return choice(parts)

    def _number(self, branch: Branch, *, is_whole: bool) -> Expression:
        bounds = numbers.Bounds()
        for keyword, is_open in (("minimum", False), ("exclusiveMinimum", True)):
            for _, value in branch.values(keyword):
                bounds = bounds.narrowed(numbers.as_decimal(value), None, is_open=is_open)
        for keyword, is_open in (("maximum", False), ("exclusiveMaximum", True)):
            for _, value in branch.values(keyword):
                bounds = bounds.narrowed(None, numbers.as_decimal(value), is_open=is_open)
        for path, name in branch.values("format"):
            if name not in NUMBER_FORMATS:
                if branch.kinds <= {"integer", "number"}:
                    raise refusal((*path, "format"), f"format {name!r}", "of numbers is not known")
                continue
            found = NUMBER_FORMATS[name]
            if found is not None:
                low, high = map(numbers.as_decimal, found)
                bounds = bounds.narrowed(low, high, is_open=False)
        divisors = branch.values("multipleOf")
        for path, value in divisors:
            multiples = bounds.of_multiples(value)
            if multiples is None:
                raise refusal((*path, "multipleOf"), f"multipleOf {value}", "is not a whole number")
            bounds = multiples
        if not is_whole and not divisors:
            return numbers.number(bounds)
        try:
            return numbers.integer(bounds, self.rules)
        except numbers.TooManyMultiples:
            path, value = divisors[0]
            reason = "cannot be kept between such bounds"
            raise refusal((*path, "multipleOf"), f"multipleOf {value}", reason) from None

    def _array(self, branch: Branch) -> Expression:
        least = branch.most("minItems") or 0
        most = branch.least("maxItems")
        if most is not None and most < least:
            return NOTHING
        num_listed = max((_num_listed(part.keywords) for part in branch.parts), default=0)
        if most is not None:
            num_listed = min(num_listed, most)
        unique = [path for path, is_unique in branch.values("uniqueItems") if is_unique]
        if unique and (most is None or most > 1):
            different = self._unique(branch, unique[0], num_listed, least, most)
            return concatenation(Text("["), different, Text("]"))
        rest = self.value(self._item(branch, None))
        items = [self.value(self._item(branch, index)) for index in range(num_listed)] or [rest]
        found = repeated(
            concatenation(SEPARATOR, rest), max(least - len(items), 0),
            None if most is None else most - len(items),
        )  # fmt: skip
        # From the last to the first, since an optional item is omitted with all that follow it.
        for index, item in reversed(list(enumerate(items))):
            found = concatenation(SEPARATOR if index else EMPTY, item, found)
            found = repeated(found, int(index < least), 1)
        return concatenation(Text("["), found, Text("]"))

    def _unique(
        self, branch: Branch, path: Path, num_listed: int, least: int, most: int | None
    ) -> Expression:
        """Items that all differ. Raises ValidationError: too many values, or any fit."""
        values = []
        for index in range(num_listed + 1):
            found = self._branches.listed(self._item(branch, index if index < num_listed else None))
            if found is None:
                reason = "is not supported for items whose values enum or const do not list"
                raise refusal(path, "uniqueItems", reason)
            values.append(found)
        try:
            return UniqueItems(
                lambda index: values[min(index, num_listed)], num_listed, least, most, self.rules
            ).expression(SEPARATOR)
        except TooManySets:
            reason = f"is not supported for so many values: they have over {MAX_STATES} subsets"
            raise refusal(path, "uniqueItems", reason) from None

    def _item(self, branch: Branch, index: int | None) -> Paths:
        """What the item at an index, or any item after those listed, has to fit."""
        found: list[Path] = []
        is_evaluated = False
        for part in branch.parts:
            keywords, count = part.keywords, _num_listed(part.keywords)
            name = "prefixItems" if "prefixItems" in keywords else "items"
            if index is not None and index < count:
                found.append((*part.path, name, index))
                is_evaluated = True
                continue
            rest = "additionalItems" if isinstance(keywords.get("items"), list) else "items"
            if rest in keywords:
                found.append((*part.path, rest))
                is_evaluated = True
        unevaluated = branch.unevaluated("unevaluatedItems")
        found += [] if is_evaluated else unevaluated
        return tuple(dict.fromkeys(found))


def _num_listed(keywords: dict[str, Any]) -> int:
    """The number of items that have their own schema."""
    if "prefixItems" in keywords:
        return len(keywords["prefixItems"])
    items = keywords.get("items")
    return len(items) if isinstance(items, list) else 0


def regex_grammar(pattern: str) -> str:
    """The grammar of texts that a regular expression matches from beginning to end.

    Raises:
        ValidationError: names what is not supported in the expression.
    """
    try:
        found = patterns.whole(pattern, plain)
    except patterns.PatternError as error:
        raise ValidationError(f"the regex is not valid: {pattern!r:.200} {error}") from None
    rules = without_dead_ends({"text": found})
    if "text" not in rules:
        raise ValidationError(f"the regex is not valid: {pattern!r:.200} matches no text")
    return ebnf(rules["text"], {})


def choice_grammar(options: list[str]) -> str:
    """The grammar of one of these texts."""
    return ebnf(choice(map(Text, options)), {})
