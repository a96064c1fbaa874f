"""The sandbox for chat templates: jinja's, with a limit on the size of what a template produces.

Jinja's sandbox keeps a template from reaching Python, but ``'x' * 10**9`` takes a gigabyte, even
when the template is compiled, since constants are computed then. Here every operation that makes a
value longer than its inputs is checked before it runs: operators, padding, formatting, replacing,
and joining and writing of values.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import generate_lorem_ipsum, pass_environment

# More than the longest prompt of any model.
MAX_CHARACTERS = 10_000_000
_MAX_BITS = 100_000
# For a value that is neither a text nor a container, such as a number.
_PLAIN_LENGTH = 8
_NUMBER = re.compile("[0-9]{1,20}")
# A width given by an argument: "%*d", "{:{}}".
_OPEN_WIDTH = re.compile(r"%[-+ #0.0-9]*\*|\{[^{}]*:[^{}]*\{")
# Filters and string methods for which a number determines the length of the result.
_PADDING_FILTERS = ("center", "indent", "slice", "batch", "tojson", "wordwrap", "pprint", "string")
_PADDING_METHODS = ("center", "ljust", "rjust", "zfill", "expandtabs")


class _Code(CodeGenerator):
    """Lets the environment do what ``~`` does."""

    def visit_Concat(self, node: Any, frame: Any) -> None:
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Raises SecurityError for a text or list beyond ``MAX_CHARACTERS``, wherever it is made."""

    # Operators that are intercepted are not computed when the template is compiled.
    intercepted_binops = frozenset(("*", "**", "+", "%"))
    code_generator_class = _Code

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=_written, **options)
        self.filters |= {name: bounded(self.filters[name]) for name in _PADDING_FILTERS}
        self.filters |= {"format": _format, "replace": _replace, "join": _join}
        self.globals["lipsum"] = bounded(generate_lorem_ipsum)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The result of an operator on two values."""
        if operator == "*":
            _check_product(left, right)
        elif operator == "**":
            _check_power(left, right)
        elif operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
            _check(len(left) + len(right))
        elif operator == "%" and isinstance(left, str):
            _check_format(left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **named: Any) -> Any:  # noqa: N805
        """Performs a template's call."""
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            if name in _PADDING_METHODS:
                _check_numbers((*args, *named.values()))
            elif name == "replace" and len(args) >= 2:
                _check_replacement(owner, *args[:2])
            elif name == "join" and len(args) == 1:
                args = (_bounded(args[0], owner),)
        return super().call(__context, __obj, *args, **named)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """A text's method ``format`` or ``format_map``."""
        own = super().wrap_str_format(value)
        if own is None:
            return None

        @functools.wraps(own)
        def checked(*args: Any, **named: Any) -> str:
            _check_format(value.__self__, (args, named))
            return own(*args, **named)

        return checked

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Joins what was written: a template's whole text, a macro's, a block's."""
        return "".join(_bounded(parts))

    @staticmethod
    def joined(parts: Iterable[Any]) -> str:
        """Joins the operands of ``~``."""
        return "".join(map(str, _bounded(parts)))


def _check(size: int) -> None:
    if size > MAX_CHARACTERS:
        raise SecurityError(
            f"it makes a value of {size} characters or elements; the limit is {MAX_CHARACTERS}"
        )


def _length(value: Any) -> int:
    """Approximate length of a value as text; stops counting beyond the limit."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, Mapping | list | tuple | set):
        return _PLAIN_LENGTH
    size = 0
    for part in value:
        size += 2 + _length(part) + (_length(value[part]) if isinstance(value, Mapping) else 0)
        if size > MAX_CHARACTERS:
            break
    return size


def _written(value: Any) -> Any:
    if not isinstance(value, str):
        _check(_length(value))
    return value


def _check_product(left: Any, right: Any) -> None:
    for values, count in ((left, right), (right, left)):
        if isinstance(values, Sized) and isinstance(count, int):
            _check(len(values) * count)
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())


def _check_power(base: Any, exponent: Any) -> None:
    if isinstance(base, int) and isinstance(exponent, int):
        _check_bits(base.bit_length() * exponent)


def _check_bits(size: int) -> None:
    if size > _MAX_BITS:
        raise SecurityError(f"it makes a number of {size} bits; the limit is {_MAX_BITS}")


def _check_numbers(values: Iterable[Any]) -> None:
    """Checks a call whose numbers are lengths and whose other values are written."""
    for value in values:
        _check(value if isinstance(value, int) else _length(value))


def _check_format(form: str, values: Any) -> None:
    if _OPEN_WIDTH.search(form):
        raise SecurityError("it has a format whose width is an argument, which is not supported")
    num_places = form.count("%") + form.count("{")
    if num_places:
        widths = map(int, _NUMBER.findall(form))
        _check(len(form) + num_places * max(_length(values), *widths, 0))


def _check_replacement(text: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        _check(len(text) + text.count(old) * max(0, len(new) - len(old)))


def _bounded(parts: Iterable[Any], between: str = "") -> Iterator[Any]:
    """The same values, with a bound on their total length; ``between`` separates them."""
    size = 0
    for part in parts:
        size += len(between) + _length(part)
        _check(size)
        yield part


def bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose numbers are lengths, and which writes its other arguments."""

    @functools.wraps(function)
    def checked(*args: Any, **named: Any) -> Any:
        _check_numbers((*args, *named.values()))
        return function(*args, **named)

    return checked


def _format(value: Any, *args: Any, **named: Any) -> str:
    """Jinja's filter ``format``."""
    if args and named:
        raise SecurityError("format takes values by place or by name, not both")
    _check_format(str(value), (args, named))
    return str(value) % (named or args)


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    """Jinja's filter ``replace``."""
    text, old, new = str(value), str(old), str(new)
    _check_replacement(text, old, new)
    return text.replace(old, new, -1 if count is None else count)


@pass_environment
def _join(
    environment: Any, value: Iterable[Any], d: Any = "", attribute: int | str | None = None
) -> str:
    """Jinja's filter ``join``."""
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    return str(d).join(map(str, _bounded(value, str(d))))
