"""How a request asks for a grammar: the forms that clients send, and what each is read as."""

import json
from typing import Any

import pytest

from atoll.errors import ValidationError
from atoll.sampling.grammar_forms import read_constraint

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("grammar", {"type": "json", "value": SCHEMA}, "json_schema"),
        ("grammar", {"type": "regex", "value": "[0-9]"}, "regex"),
        ("grammar", json.dumps({"type": "json", "value": SCHEMA}), "json_schema"),
        ("response_format", {"type": "json_object", "value": SCHEMA}, "json_schema"),
        ("response_format", {"type": "json_object"}, "json_object"),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
         "json_schema"),
        ("guided_json", SCHEMA, "json_schema"),
        ("guided_json", json.dumps(SCHEMA), "json_schema"),
        ("guided_regex", "[0-9]", "regex"),
        ("guided_grammar", 'root ::= "a"', "grammar"),
        ("guided_choice", ["a", "b"], "choice"),
        ("guided_choice", '["a", "b"]', "choice"),
    ],
)  # fmt: skip
def test_forms_that_clients_send(option: str, value: Any, kind: str) -> None:
    found = read_constraint(option, value)
    assert found is not None and found[0] == kind
    if kind == "json_schema":
        assert json.loads(found[1]) == SCHEMA


def test_other_forms() -> None:
    assert read_constraint("response_format", {"type": "text"}) is None
    for option, value in (
        ("grammar", {"type": "xml"}), ("grammar", "{"), ("guided_json", 3), ("guided_regex", ""),
        ("guided_choice", []), ("guided_choice", "a"), ("guided_choice", [1]),
        ("grammar", {"type": "json"}), ("response_format", []),
        ("response_format", {"type": "text", "schema": SCHEMA}),
        ("response_format", {"type": "json_object", "schema": SCHEMA, "value": SCHEMA}),
        ("grammar", {"type": "regex", "value": "a", "flags": "i"}),
    ):  # fmt: skip
        with pytest.raises(ValidationError, match=option):
            read_constraint(option, value)


def test_a_format_is_taken_whole() -> None:
    """A schema beside ``json_object`` was left out, and of a schema all but a member "schema"."""
    found = read_constraint("response_format", {"type": "json_object", "schema": SCHEMA})
    assert found is not None and json.loads(found[1]) == SCHEMA
    own = {**SCHEMA, "schema": {"type": "null"}}
    found = read_constraint("grammar", {"type": "json", "value": own})
    assert found is not None and json.loads(found[1]) == own
