"""Which keywords of JSON schemas Atoll, xgrammar's own converter and llguidance keep.

``python benchmarks/structured_output.py`` prints the table of docs/structured_output.md. Each
engine compiles the schemas of schema_cases.py and is given values, as JSON with a space after
``,`` and ``:``. xgrammar and llguidance (``pip install llguidance``) may put spaces anywhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema
from harness.measure import versions
from schema_cases import CASES, Case

from atoll.errors import ValidationError
from atoll.sampling.schema import json_grammar

# Whether a grammar takes a whole text.
Taking = Callable[[str], bool]
NUM_BYTES = 256


class Refused(Exception):
    """The engine does not compile the schema."""


def atoll(source: str) -> Taking:
    """Atoll's grammar, which xgrammar runs. Raises Refused."""
    try:
        return _xgrammar(lambda compiler: compiler.compile_grammar(json_grammar(source)))
    except ValidationError as error:
        raise Refused(str(error)) from None


def xgrammar(source: str) -> Taking:
    """xgrammar's own grammar of a schema; not strict, as to properties. Raises Refused."""
    return _xgrammar(lambda compiler: compiler.compile_json_schema(source, strict_mode=False))


def _xgrammar(compile_with: Callable[[Any], Any]) -> Taking:
    import xgrammar as engine

    tokens = [bytes([value]) for value in range(NUM_BYTES)]
    info = engine.TokenizerInfo(
        [*tokens, b"</s>"], engine.VocabType.RAW, vocab_size=NUM_BYTES + 1,
        stop_token_ids=[NUM_BYTES],
    )  # fmt: skip
    try:
        compiled = compile_with(engine.GrammarCompiler(info, max_threads=1))
    except RuntimeError as error:
        raise Refused(str(error)) from None

    def takes(text: str) -> bool:
        matcher = engine.GrammarMatcher(compiled)
        return bool(matcher.accept_string(text) and matcher.is_completed())

    return takes


class _Bytes:
    """A tokenizer with a token for each byte, as llguidance expects one."""

    eos_token_id, bos_token_id, special_token_ids = NUM_BYTES, None, (NUM_BYTES,)
    tokens = (*(bytes([value]) for value in range(NUM_BYTES)), b"</s>")

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def llguidance(source: str) -> Taking:
    """llguidance's grammar of a schema. Raises Refused."""
    from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

    tokenizer = LLTokenizer(TokenizerWrapper(_Bytes()))
    grammar = LLMatcher.grammar_from_json_schema(source)
    error = LLMatcher(tokenizer, grammar, log_level=0).get_error()
    if error:
        raise Refused(error)

    def takes(text: str) -> bool:
        matcher = LLMatcher(tokenizer, grammar, log_level=0)
        ids = list(text.encode())
        return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())

    return takes


ENGINES: Mapping[str, Callable[[str], Taking]] = {
    "Atoll": atoll, "xgrammar": xgrammar, "llguidance": llguidance,
}  # fmt: skip


def verdict(engine: Callable[[str], Taking], case: Case) -> str:
    """exact; narrower: not every value that fits is taken; wrong: one that does not fit is."""
    kind = jsonschema.Draft202012Validator
    validator = kind(case.schema, format_checker=kind.FORMAT_CHECKER)
    try:
        takes = engine(json.dumps(case.schema))
    except Refused as error:
        print(f"{engine.__name__}: {json.dumps(case.schema)}: {error}", file=sys.stderr)
        return "refused"
    found = [
        (takes(json.dumps(value, ensure_ascii=False)), validator.is_valid(value))
        for value in case.values
    ]
    if any(taken and not fits for taken, fits in found):
        return "**wrong**"
    return "narrower" if any(fits and not taken for taken, fits in found) else "exact"


def main() -> None:
    """Prints the table."""
    print(f"{versions(['xgrammar', 'llguidance', 'jsonschema'])}.\n")
    print(f"| keywords | schema | {' | '.join(ENGINES)} |\n|-|-|{'-|' * len(ENGINES)}")
    for family, cases in CASES.items():
        for case in cases:
            shown = json.dumps(case.schema, ensure_ascii=False).replace("|", "\\|")
            verdicts = " | ".join(verdict(engine, case) for engine in ENGINES.values())
            print(f"| {family} | `{shown}` | {verdicts} |")


if __name__ == "__main__":
    main()
