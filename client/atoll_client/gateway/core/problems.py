"""pydantic's errors as one sentence: the field, its value, and what is expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pydantic
from pydantic import BaseModel

from atoll_client.errors import ValidationError
from atoll_client.gateway.core.fields import REFUSED, described

Path = tuple[str | int, ...]

# The most characters of a value that are shown.
_MAX_SHOWN = 80
# The expected type, by the type of pydantic's error.
_EXPECTED = {
    "string_type": "a text", "int_type": "an integer", "float_type": "a number",
    "bool_type": "true or false", "list_type": "a list", "dict_type": "an object",
    "model_type": "an object", "model_attributes_type": "an object",
    "int_from_float": "an integer",
}  # fmt: skip


def first_problem(
    error: pydantic.ValidationError, given: Mapping[str, Any], kind: type[BaseModel]
) -> ValidationError:
    """One error for all: the deepest one of the first wrong field, a refused one before a missing.

    pydantic reports an error for each member of a union. The deepest one belongs to the member that
    was meant; if several are equally deep, the field has none of the union's types.
    """
    problems = [(_place(one, given), one) for one in error.errors(include_url=False)]
    # A field that is refused often stands for the one that is missing, and says where it belongs.
    refused = (path for path, one in problems if one["type"] == REFUSED)
    is_missing = problems[0][1]["type"] == "missing"
    top = (next(refused, problems[0][0]) if is_missing else problems[0][0])[:1]
    problems = [(path, one) for path, one in problems if path[:1] == top]
    depth = max(len(path) for path, _ in problems)
    deepest = [(path, one) for path, one in problems if len(path) == depth]
    if len({_branch(path, one) for path, one in deepest}) > 1 and len(dict(deepest)) > 1:
        return _none_of(top, given, kind)
    deepest.sort(key=lambda problem: problem[1]["type"] != REFUSED)
    path = deepest[0][0]
    return _one_of(path, [one for found, one in deepest if found == path])


def _place(problem: Any, given: Any) -> Path:
    """The location of a pydantic error, without the names of union members."""
    loc: Path = problem["loc"]
    path: list[str | int] = []
    value = given
    for at, part in enumerate(loc):
        is_missing = at == len(loc) - 1 and problem["type"] == "missing"
        if _holds(value, part):
            value = value[part]
            path.append(part)
        elif is_missing:
            path.append(part)
    return tuple(path)


def _holds(value: Any, part: str | int) -> bool:
    if isinstance(part, int):
        return isinstance(value, list) and part < len(value)
    return isinstance(value, dict) and part in value


def _branch(path: Path, problem: Any) -> Path:
    """The union members in the location of an error."""
    left = list(problem["loc"])
    for part in path:
        left.remove(part)
    return tuple(left)


def _none_of(top: Path, given: Mapping[str, Any], kind: type[BaseModel]) -> ValidationError:
    name = str(top[0])
    expected = described(kind.model_json_schema()["properties"][name])
    return ValidationError.of(
        name, f"is {_shown(given[name])}; expected {expected}", code="invalid_type"
    )


def _one_of(path: Path, problems: Sequence[Any]) -> ValidationError:
    first, name = problems[0], written(path)
    if not name:
        return ValidationError(first["msg"])
    if first["type"] == REFUSED:
        return ValidationError.of(
            name,
            f"is {_shown(first['input'])}, which is not supported: {first['msg']}",
            code="unsupported_parameter",
        )
    if first["type"] == "missing":
        return ValidationError(
            f"`{name}`: {first['msg']}", param=name, code="missing_required_parameter"
        )
    words = [_EXPECTED[one["type"]] for one in problems if one["type"] in _EXPECTED]
    expected = " or ".join(dict.fromkeys(words))
    message = first["msg"]
    code = "invalid_value"
    if len(words) == len(problems):
        message, code = f"expected {expected}", "invalid_type"
    elif message.startswith("Input should be"):
        message = f"expected {message.removeprefix('Input should be ')}"
    return ValidationError.of(name, f"is {_shown(first['input'])}; {message}", code=code)


def written(path: Path) -> str:
    """A path as OpenAI writes it: ``messages[0].content``."""
    found = ""
    for part in path:
        found += f"[{part}]" if isinstance(part, int) else f".{part}" if found else part
    return found


def _shown(value: Any) -> str:
    try:
        text = orjson.dumps(value).decode()
    except TypeError:
        text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
