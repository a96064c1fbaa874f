"""Strategies: values that nobody means, examples with something changed, and damaged JSON."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1,
    10**400, 0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), float("-inf"), "", " ", "a",
    "\0", "\ud800", "\udfff\ud800", "\u202e", "\U0001f600" * 20, "é" * 300, "a" * 70_000, "[" * 500,
    "null", "true", "1", "-1", "1e999", "NaN", "auto", "none", "../../etc/passwd", "%s%n", "{{7}}",
    "data:image/png;base64,AAAA", "data:;base64,!", "http://127.0.0.1:1/", "<|im_end|>", "[MASK]",
    [], {}, [[]], [None], [{}], [""], ["a", 1], [[1, 2], [3]], [0] * 3000, ["a"] * 300, {"": ""},
    {"type": "object"}, {"type": "nope"}, {"$ref": "#"}, {"type": "text", "text": "a"}, {"a": {}},
]  # fmt: skip
_LONG_KEY = "k" * 20_000
# What makes a request do more, rather than be refused.
MODEST: list[Any] = [0, 1, 2, 3, 5, 0.1, 0.5, 1.0, True, False, "a", "the", ["a"], [1, 2], None]


def json_values() -> st.SearchStrategy[Any]:
    """Odd ones, modest ones, and whatever is JSON."""
    texts = st.text(st.characters(), max_size=30)
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
    free = st.recursive(
        leaves, lambda x: st.lists(x, max_size=4) | st.dictionaries(texts, x, max_size=4),
        max_leaves=8,
    )  # fmt: skip
    return st.sampled_from(ODD) | st.sampled_from(MODEST) | free | _nested()


@st.composite
def _nested(draw: st.DrawFn) -> Any:
    found: Any = draw(st.sampled_from([1, "a", None, []]))
    for _ in range(draw(st.sampled_from([2, 20, 130, 700]))):
        found = [found] if draw(st.booleans()) else {"a": found}
    return found


def fitting(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values of the kind that a described field takes, as far as its type and limits say so."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
    if kinds:
        return st.one_of(*map(fitting, kinds))
    low, high = schema.get("minimum", 0), schema.get("maximum", 40)
    match schema.get("type"):
        case "integer":
            return st.integers(min(low, high), min(max(low, high), low + 40))
        case "number":
            return st.floats(float(low), float(max(low, high)))
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(fitting(schema.get("items", {})), max_size=4)
    return st.sampled_from(MODEST)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every member: the object or list that has it, and its key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[Any, Any]] = []
    for key, item in list(items):
        found.append((value, key))
        found += places(item) if isinstance(item, dict | list) else []
    return found


@st.composite
def changed(
    draw: st.DrawFn, example: Any, fields: Mapping[str, Mapping[str, Any]], most: int = 3
) -> Any:
    """The example with up to ``most`` changes. fields: others that may be set, with schemas."""
    body = copy.deepcopy(example)
    for _ in range(draw(st.integers(0, most))):
        kind = draw(st.sampled_from(["set", "set", "field", "field", "fit", "fit", "gone", "name"]))
        if kind in ("field", "fit") and fields and isinstance(body, dict):
            name = draw(st.sampled_from(sorted(fields)))
            value = draw(json_values() if kind == "field" else fitting(fields[name]))
            # What is drawn is the same object each time.
            body[name] = copy.deepcopy(value)
            continue
        members = places(body) if isinstance(body, dict | list) else []
        if not members:
            return copy.deepcopy(draw(json_values()))
        inside, key = members[draw(st.integers(0, len(members) - 1))]
        if kind == "gone":
            del inside[key]
        elif kind == "name" and isinstance(inside, dict):
            other = draw(
                st.sampled_from(["", "a", _LONG_KEY, "\0", "model", "__class__", "\ud800"])
            )
            inside[other] = inside.pop(key)
        else:
            inside[key] = copy.deepcopy(draw(json_values()))
    return body


@st.composite
def damaged_json(draw: st.DrawFn, body: Any) -> bytes:
    """The text of a value, mostly as it should be."""
    text = json.dumps(body, ensure_ascii=draw(st.booleans()))
    if draw(st.booleans()):
        text = text.replace("Infinity", "1e999")
    raw = text.encode("utf-8", "surrogatepass")
    # Small numbers are drawn more often.
    kind = draw(st.integers(0, 19)) - 14
    at = draw(st.integers(0, len(raw)))
    if kind == 0:
        return raw[:at]
    if kind == 1:
        return raw[:at] + draw(st.binary(min_size=1, max_size=8)) + raw[at + 1 :]
    if kind == 2:
        return raw.replace(b"{", b'{"model":1,', 1).replace(b"}", b',"model":null}', 1)
    if kind == 3:
        return draw(st.sampled_from(_WHOLE)) + raw
    if kind == 4:
        return raw + draw(st.sampled_from([b"\0", b"}", b"{}", b" " * 9000, b"//x"]))
    if kind == 5:
        return text.encode(draw(st.sampled_from(["utf-16", "utf-32", "utf-7"])), "surrogatepass")
    return raw


_WHOLE: Sequence[bytes] = (
    b"", b"\xef\xbb\xbf", b"\xff\xfe", b"[" * 3000, b'{"a":' * 3000, b"-", b"1e", b'"', b"'",
)  # fmt: skip


def bits_flipped(raw: bytes) -> st.SearchStrategy[bytes]:
    """Some bytes of a message changed, inserted or cut off."""
    return st.builds(
        lambda at, more, cut: raw[: at % (len(raw) + 1)] + more + raw[at % (len(raw) + 1) + cut :],
        st.integers(0, max(len(raw), 1)), st.binary(max_size=6), st.sampled_from([0, 1, 4, 10**6]),
    )  # fmt: skip
