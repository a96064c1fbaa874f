"""Numbers within bounds, as expressions over their decimal digits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from atoll.sampling.schema.expressions import (
    EMPTY,
    NOTHING,
    Characters,
    Expression,
    Rule,
    Text,
    choice,
    concatenation,
    repeated,
)

# Readers parse numbers as doubles, which can distinguish decimals of so many digits.
_DOUBLE_DIGITS = 15
# Up to so many multiples between bounds are listed; without bounds, remainders are tracked.
_MAX_LISTED, _MAX_DIVISOR = 2048, 64


@dataclass(frozen=True)
class Bounds:
    """low, high: None: unbounded. multiples: the whole number that it is a multiple of."""

    low: Decimal | None = None
    high: Decimal | None = None
    is_low_open: bool = False
    is_high_open: bool = False
    multiple: int = 1

    def narrowed(self, low: Decimal | None, high: Decimal | None, *, is_open: bool) -> Bounds:
        """With one more bound."""
        found = self
        if low is not None and (
            found.low is None or (low, is_open) > (found.low, found.is_low_open)
        ):
            found = replace(found, low=low, is_low_open=is_open)
        if high is not None and (
            found.high is None or (-high, is_open) > (-found.high, found.is_high_open)
        ):
            found = replace(found, high=high, is_high_open=is_open)
        return found

    def of_multiples(self, value: int | float) -> Bounds | None:
        """Also a multiple of ``value``; None if ``value`` is not a whole number."""
        divisor = Fraction(as_decimal(value))
        if divisor.denominator != 1:
            return None
        return replace(self, multiple=math.lcm(self.multiple, divisor.numerator))


class TooManyMultiples(Exception):
    """There is no short grammar for these multiples."""


def integer(bounds: Bounds, rules: dict[str, Expression]) -> Expression:
    """Whole numbers without a fraction; ``rules`` is added to.

    Raises:
        TooManyMultiples: of a large number, with distant or no bounds.
    """
    low, high = _whole(bounds)
    if low is not None and high is not None and low > high:
        return NOTHING
    if bounds.multiple == 1:
        return _integers(low, high)
    step = bounds.multiple
    if low is not None and high is not None and (high - low) // step < _MAX_LISTED:
        first = -(-low // step) * step
        return choice(Text(str(number)) for number in range(first, high + 1, step))
    if step > _MAX_DIVISOR or (low or 0) > 0 or (high or 0) < 0 or (low and high):
        raise TooManyMultiples
    positive = _multiples(step, rules)
    if low is None and high is None:
        return choice([Text("0"), concatenation(repeated(Text("-"), 0, 1), positive)])
    if low is None and high == 0:
        return choice([Text("0"), concatenation(Text("-"), positive)])
    if high is None and low == 0:
        return choice([Text("0"), positive])
    raise TooManyMultiples


def number(bounds: Bounds) -> Expression:
    """Decimal numbers; with exponents only if there are no bounds."""
    low, high = bounds.low, bounds.high
    if low is None and high is None:
        fraction = repeated(concatenation(Text("."), repeated(_digit(0, 9), 1)), 0, 1)
        # Two digits at most: a double ends at 308.
        exponent = concatenation(
            choice([Text("e"), Text("E")]), repeated(choice([Text("+"), Text("-")]), 0, 1),
            repeated(_digit(0, 9), 1, 2),
        )  # fmt: skip
        return concatenation(_integers(None, None), fraction, repeated(exponent, 0, 1))
    parts = []
    if low is None or low < 0:
        above_zero = high is None or high >= 0
        mirrored = _decimals(
            Decimal(0) if high is None or high >= 0 else -high, None if low is None else -low,
            True if above_zero else bounds.is_high_open, bounds.is_low_open,
        )  # fmt: skip
        parts.append(concatenation(Text("-"), mirrored))
    if high is None or high >= 0:
        is_open = bounds.is_low_open if low is not None and low >= 0 else False
        floor = max(low, Decimal(0)) if low is not None else Decimal(0)
        parts.append(_decimals(floor, high, is_open, bounds.is_high_open))
    return choice(parts)


def _whole(bounds: Bounds) -> tuple[int | None, int | None]:
    low = high = None
    if bounds.low is not None:
        low = math.ceil(bounds.low)
        low += bounds.is_low_open and low == bounds.low
    if bounds.high is not None:
        high = math.floor(bounds.high)
        high -= bounds.is_high_open and high == bounds.high
    return low, high


def _integers(low: int | None, high: int | None) -> Expression:
    parts: list[Expression] = []
    if low is None or low < 0:
        least = 1 if high is None or high >= 0 else -high
        parts.append(concatenation(Text("-"), _naturals(least, None if low is None else -low)))
    if high is None or high >= 0:
        parts.append(_naturals(max(low or 0, 0), high))
    return choice(parts)


def _naturals(low: int, high: int | None) -> Expression:
    """low to high, both included, 0 <= low."""
    parts: list[Expression] = []
    if high is None:
        length = len(str(low))
        more = concatenation(_digit(1, 9), repeated(_digit(0, 9), length))
        return choice([_naturals(low, 10**length - 1), more])
    while low <= high:
        top = min(high, 10 ** len(str(low)) - 1)
        length = len(str(low))
        parts.append(_digits(str(low), str(top), False, False, length, length))
        low = top + 1
    return choice(parts)


def _decimals(
    low: Decimal, high: Decimal | None, is_low_open: bool, is_high_open: bool
) -> Expression:
    """low to high, 0 <= low."""
    if high is not None and (low > high or (low == high and (is_low_open or is_high_open))):
        return NOTHING
    low_whole, low_digits = _split(low)
    high_whole, high_digits = (None, "") if high is None else _split(high)
    width = len(str(low_whole if high_whole is None else high_whole))
    room = max(_DOUBLE_DIGITS - width, 1)
    if low_whole == high_whole:
        ends = _fraction(low_digits, high_digits, is_low_open, is_high_open, room)
        return concatenation(Text(str(low_whole)), ends)
    parts = [
        concatenation(Text(str(low_whole)), _fraction(low_digits, None, is_low_open, False, room))
    ]
    last = None if high_whole is None else high_whole - 1
    if last is None or low_whole + 1 <= last:
        between = _naturals(low_whole + 1, last)
        parts.append(concatenation(between, _fraction("", None, False, False, room)))
    if high_whole is not None:
        ends = _fraction("", high_digits, False, is_high_open, room)
        parts.append(concatenation(Text(str(high_whole)), ends))
    return choice(parts)


def _split(value: Decimal) -> tuple[int, str]:
    """The whole part, and the fraction's digits without trailing zeros."""
    whole, _, digits = f"{value:f}".partition(".")
    return int(whole), digits.rstrip("0")


def _fraction(
    low: str, high: str | None, is_low_open: bool, is_high_open: bool, room: int
) -> Expression:
    """An optional point and digits: a fraction between low and high (1 if None)."""
    digits = _digits(low, high, is_low_open, is_high_open, 1, room)
    behind = concatenation(Text("."), digits)
    return repeated(behind, 0, 1) if _holds_zero(low, high, is_low_open, is_high_open) else behind


def _holds_zero(low: str, high: str | None, is_low_open: bool, is_high_open: bool) -> bool:
    is_below = high is None or bool(high.strip("0")) or not is_high_open
    return is_below and not low.strip("0") and not is_low_open


def _digits(
    low: str, high: str | None, is_low_open: bool, is_high_open: bool, least: int, most: int
) -> Expression:
    """``least`` to ``most`` digits that, as a fraction, are between low and high.

    low, high: digits of fractions, followed by zeros. high: None: no bound.
    """
    is_above = not low.strip("0") and not is_low_open
    if is_above and high is None:
        return repeated(_digit(0, 9), max(least, 0), max(most, 0))
    first, last = int(low[:1] or 0), 9 if high is None else int(high[:1] or 0)
    # Whether the digits after the first or the last one are limited, too.
    limits_low = bool(low[1:].strip("0")) or is_low_open
    nines = "9" * (most - 1)
    limits_high = high is not None and (is_high_open or high[1:].ljust(len(nines), "0") < nines)
    parts: list[Expression] = []
    for digit in range(first, last + 1) if most > 0 else ():
        at_low, at_high = limits_low and digit == first, limits_high and digit == last
        if at_low or at_high:
            rest = _digits(
                low[1:] if at_low else "", high[1:] if high is not None and at_high else None,
                at_low and is_low_open, at_high and is_high_open, least - 1, most - 1,
            )  # fmt: skip
            parts.append(concatenation(Text(str(digit)), rest))
    start, end = first + limits_low, last - limits_high
    if start <= end and most > 0:
        rest = repeated(_digit(0, 9), max(least - 1, 0), most - 1)
        parts.append(concatenation(_digit(start, end), rest))
    found = choice(parts)
    may_end = least <= 0 and _holds_zero(low, high, is_low_open, is_high_open)
    return repeated(found, 0, 1) if may_end else found


def _multiples(step: int, rules: dict[str, Expression]) -> Expression:
    """Positive multiples, by the remainder of the digits so far."""
    for remainder in range(step):
        name = f"multiple-{step}-{remainder}"
        following: list[Expression] = [
            concatenation(Text(str(d)), Rule(f"multiple-{step}-{(10 * remainder + d) % step}"))
            for d in range(10)
        ]
        rules[name] = choice([EMPTY, *following] if remainder == 0 else following)
    return choice(
        concatenation(Text(str(d)), Rule(f"multiple-{step}-{d % step}")) for d in range(1, 10)
    )


def _digit(first: int, last: int) -> Expression:
    if first == last:
        return Text(str(first))
    return Characters(((ord(str(first)), ord(str(last))),))


def as_decimal(value: int | float) -> Decimal:
    """The number as written in JSON."""
    return Decimal(repr(value))
