"""Grammars that take long to compile: tried in a process that ends when nobody waits for them."""

from __future__ import annotations

import itertools
import json
import os
from typing import Any

import psutil
import pytest
import xgrammar
from schemas import obj

from atoll.errors import Cancelled, ValidationError
from atoll.sampling import grammar
from atoll.sampling.grammar import GrammarCompiler
from atoll.sampling.grammar_process import try_apart
from atoll.text.tokenizer import Tokenizer
from atoll.weights.files import resolve

# An automaton of many states for each string: minutes of work, which nothing could end.
MINUTES = obj(**{f"p{i}": {"pattern": r"\S", "maxLength": 20 + i} for i in range(40)})
# Large, but what most schemas are made of.
WIDE: list[Any] = [
    obj(**{f"p{i}": {"type": "string", "maxLength": 1000 + i} for i in range(300)}),
    obj(**{f"p{i}": {"type": "string", "minLength": 900, "maxLength": 10**6} for i in range(99)}),
    {"enum": [f"value {i}" for i in range(3000)]},
    {"type": "array", "items": {"type": "string", "maxLength": 100}, "minItems": 1000},
    {"type": "array", "items": {"enum": list("abcdefg")}, "uniqueItems": True},
    {"type": "string", "pattern": "^(([a-z]{1,50}){1,50}){1,50}$"},
    {"allOf": [obj(**{f"p{i}": {"minLength": 5, "type": "string"} for i in range(200)})] * 3},
]
OTHERS = [
    ("regex", "((a{1,30}b{1,30}){1,30}c){1,30}"), ("regex", "(a?){99}" * 20),
    ("grammar", 'root ::= (([a-z] [0-9]){1,1000} " "){1,1000}'),
    ("grammar", 'root ::= a a a a\na ::= [a-z]* b\nb ::= [a-z]* | [a-z]* a "x"'),
    ("choice", json.dumps([f"v{i}" for i in range(5000)])),
]  # fmt: skip


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(Tokenizer.load(resolve("HuggingFaceTB/SmolLM2-135M-Instruct")), 49152)


def test_a_grammar_that_takes_minutes_ends_with_its_request(compiler: GrammarCompiler) -> None:
    asked = itertools.count()
    with pytest.raises(Cancelled):
        compiler.compile("json_schema", json.dumps(MINUTES), lambda: next(asked) > 3)
    children = psutil.Process(os.getpid()).children()
    assert not [one for one in children if "atoll.sampling.grammar_process" in one.cmdline()]


@pytest.mark.parametrize("schema", WIDE, ids=range(len(WIDE)))
def test_wide_schemas_need_no_process(
    compiler: GrammarCompiler, schema: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar, "try_apart", None)
    assert compiler.compile("json_schema", json.dumps(schema)).matcher()


@pytest.mark.parametrize(("kind", "source"), OTHERS, ids=range(len(OTHERS)))
def test_other_grammars_need_no_process(
    compiler: GrammarCompiler, kind: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar, "try_apart", None)
    assert compiler.compile(kind, source).matcher()


def test_what_the_process_finds() -> None:
    info = xgrammar.TokenizerInfo(["a", "b"])
    try_apart("root ::= [ab]", info, lambda: False)
    with pytest.raises(ValidationError, match="other"):
        try_apart("root ::= other", info, lambda: False)
