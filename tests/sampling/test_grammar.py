"""Constrained answers of a real vocabulary: whatever the model wants, the text follows."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from driving import EchoModel, generate, make_core, request, run
from tiny.tokenizer import write_tokenizer
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models
from torch import Tensor

from atoll.engine.request import FinishReason
from atoll.errors import ValidationError
from atoll.sampling import grammar as grammars
from atoll.sampling.grammar import GrammarCompiler
from atoll.text.tokenizer import Tokenizer
from atoll.weights.files import resolve

VOCAB = 49152
EOS = 2


class RandomModel(EchoModel):
    """Wants something else at every step, and closes strings and ends texts now and then."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(VOCAB)
        ends = ['"', '",', '"}', "}", "]", '"]', "]}", "1", "0"]
        self._ends = [i for i in map(tokenizer.core.token_to_id, ends) if i is not None] + [EOS]

    def logits(self, hidden: Tensor) -> Tensor:
        rows = []
        for state in hidden[:, 0].long().tolist():
            generator = torch.Generator().manual_seed(state)
            row = torch.randn(VOCAB, generator=generator)
            row[self._ends] += 4.5
            rows.append(row)
        return torch.stack(rows)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(resolve("HuggingFaceTB/SmolLM2-135M-Instruct"))


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, VOCAB)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> RandomModel:
    return RandomModel(tokenizer)


SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12},
                                      "age": {"type": "integer", "minimum": 0, "maximum": 99}},
     "required": ["name", "age"], "additionalProperties": False},
    {"enum": ["red", "green", 3, None]},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    {"anyOf": [{"type": "integer", "minimum": -5, "maximum": 5}, {"const": "none"}]},
    {"$defs": {"node": {"type": "object", "properties": {"value": {"enum": [1, 2]}},
                        "required": ["value"], "additionalProperties": False}},
     "type": "array", "items": {"$ref": "#/$defs/node"}, "minItems": 1, "maxItems": 3},
    {"type": "string", "pattern": "^[a-f]{3}-[0-9]{2}$"},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_schemas(
    schema: dict[str, Any], tokenizer: Tokenizer, compiler: GrammarCompiler, model: RandomModel
) -> None:
    grammar = compiler.compile("json_schema", json.dumps(schema))
    core = make_core(model, vocab_size=VOCAB, num_blocks=256)
    sinks = []
    for seed in range(6):
        made, sink = request(
            [seed + 10], 200, grammar=grammar, eos_token_ids=frozenset([EOS]), seed=seed,
            do_sample=seed % 2 == 0, ignore_eos=seed == 5, min_new_tokens=3 if seed == 4 else 0,
        )  # fmt: skip
        core.add(made)
        sinks.append(sink)
    run(core)
    for sink in sinks:
        assert sink.error is None and sink.outcome is not None
        assert sink.outcome.reason is FinishReason.EOS
        jsonschema.validate(json.loads(tokenizer.decode(sink.ids)), schema)


def test_free_and_constrained_rows_in_one_batch(
    tokenizer: Tokenizer, compiler: GrammarCompiler, model: RandomModel
) -> None:
    expression = r"(yes|no), [0-9]{2,4}"
    grammar = compiler.compile("regex", expression)
    core = make_core(model, vocab_size=VOCAB)
    free, free_sink = request([5], 8)
    bound, bound_sink = request([5], 30, grammar=grammar, eos_token_ids=frozenset([EOS]))
    core.add(free)
    core.add(bound)
    run(core)
    assert re.fullmatch(expression, tokenizer.decode(bound_sink.ids))
    assert free_sink.ids == generate(make_core(model, vocab_size=VOCAB), [[5]], max_new_tokens=8)[0]


@pytest.mark.parametrize(("is_tiny", "options", "message"), [
    (True, {}, "the model has no token for the text"),
    (True, {"do_sample": True}, "the model has no token for the text"),
    (False, {"no_repeat_ngram_size": 1}, "other options of the request ban every token"),
    (False, {"no_repeat_ngram_size": 1, "do_sample": True, "logprobs": True}, "ban every token"),
])  # fmt: skip
def test_an_answer_that_cannot_go_on(
    is_tiny: bool, options: dict[str, Any], message: str, tokenizer: Tokenizer,
    model: RandomModel, tmp_path: Path,
) -> None:  # fmt: skip
    """It failed as if the engine were at fault: "token 95 does not follow the grammar"."""
    write_tokenizer(tmp_path)
    letters, size = (Tokenizer.load(tmp_path), 96) if is_tiny else (tokenizer, VOCAB)
    grammar = GrammarCompiler(letters, size).compile("regex", r"a\\" if is_tiny else "[ab]{60}")
    core = make_core(EchoModel(size) if is_tiny else model, vocab_size=size)
    made, sink = request([5], 80, grammar=grammar, eos_token_ids=frozenset([EOS]), **options)
    other, other_sink = request([5], 8)
    core.add(made)
    core.add(other)
    run(core)
    assert isinstance(sink.error, ValidationError) and message in str(sink.error)
    assert len(other_sink.ids) == 8


@pytest.mark.parametrize(("expression", "can_go_on"), [(r"[a-c]*", True), (r"(ab|cd)", False)])
def test_an_answer_is_long_enough_where_its_grammar_allows(
    expression: str, can_go_on: bool, tokenizer: Tokenizer, compiler: GrammarCompiler,
    model: RandomModel,
) -> None:  # fmt: skip
    """min_new_tokens was ignored beside a grammar."""
    grammar = compiler.compile("regex", expression)
    core, sinks = make_core(model, vocab_size=VOCAB), []
    for seed in range(4):
        made, sink = request(
            [seed + 10], 40, grammar=grammar, eos_token_ids=frozenset([EOS]), seed=seed,
            do_sample=True, min_new_tokens=9, logit_bias=((EOS, 50.0),),
        )  # fmt: skip
        core.add(made)
        sinks.append(sink)
    run(core)
    for sink in sinks:
        assert re.fullmatch(expression, tokenizer.decode(sink.ids))
        num_tokens = len([i for i in sink.ids if i != EOS])
        assert num_tokens == 9 if can_go_on else num_tokens <= 2


@pytest.mark.parametrize("vocab_size", [96, 100, 31, 33])
def test_the_gpu_is_masked_as_the_host_is(vocab_size: int) -> None:
    """Without xgrammar's kernel, which a machine without a compiler cannot make."""

    class Drawn:
        """Allows tokens at random, the sign bit of a word among them."""

        def __init__(self, seed: int) -> None:
            self.seed = seed

        def fill(self, bitmask: Any, row: int) -> None:
            generator = np.random.default_rng(self.seed)
            bitmask[row] = generator.integers(-(2**31), 2**31, bitmask[row].shape)

    rows, matchers = [0, 2, 3], [Drawn(1), Drawn(2), Drawn(3)]
    host, device = (torch.randn(5, vocab_size).expand(2, -1, -1).clone()).unbind()
    bitmask = np.zeros((3, -(-vocab_size // 32)), np.int32)
    for row, matcher in enumerate(matchers):
        matcher.fill(bitmask, row)
    grammars.mask(host, np.array(rows), bitmask)
    grammars._mask_on_device(device, torch.tensor(rows), torch.tensor(bitmask))
    assert torch.equal(host, device)
    assert host[[0, 2, 3]].isinf().any() and not host[[1, 4]].isinf().any()


def test_grammar_survives_preemption(
    tokenizer: Tokenizer, compiler: GrammarCompiler, model: RandomModel
) -> None:
    grammar = compiler.compile("regex", r"[a-z]{60,70}")
    core = make_core(model, vocab_size=VOCAB, num_blocks=12, prefix_caching=False)
    sinks = []
    for i in range(4):
        made, sink = request([i] * 4, 80, grammar=grammar, eos_token_ids=frozenset([EOS]))
        core.add(made)
        sinks.append(sink)
    run(core)
    assert core.stats().num_preemptions > 0
    for sink in sinks:
        assert re.fullmatch(r"[a-z]{60,70}", tokenizer.decode(sink.ids))


def test_ebnf_and_any_object(
    tokenizer: Tokenizer, compiler: GrammarCompiler, model: RandomModel
) -> None:
    for kind, source in (("grammar", 'root ::= "a" ("b" | "c")+ "d"'), ("json_object", "")):
        core = make_core(model, vocab_size=VOCAB, num_blocks=512)
        made, sink = request(
            [3], 400, grammar=compiler.compile(kind, source), eos_token_ids=frozenset([EOS])
        )
        core.add(made)
        run(core)
        assert sink.outcome is not None
        text = tokenizer.decode(sink.ids)
        if kind == "grammar":
            assert re.fullmatch("a[bc]+d", text)
        elif sink.outcome.reason is FinishReason.EOS:
            assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("json_schema", '{"type": "nonsense"}'),
        ("json_schema", '{"type": "string", "pattern": "(unclosed"}'),
        ("regex", "(unclosed"),
        ("regex", "[z-a]"),
        ("grammar", "root ::= missing"),
        ("regex", "a" * 200_000),
    ],
)
def test_wrong_sources_are_refused(kind: str, source: str, compiler: GrammarCompiler) -> None:
    with pytest.raises(ValidationError, match=kind):
        compiler.compile(kind, source)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"if": {"type": "integer"}, "then": {"minimum": 1}}, "if is not supported"),
        ({"type": "object", "properties": {"a": {"not": {"const": []}}}}, "not is not supported"),
        ({"type": "array", "items": {"anyOf": [{"contains": {"const": 1}}]}}, "contains"),
        ({"$defs": {"a": {"dependencies": {"a": ["b"]}}}, "$ref": "#/$defs/a"}, "dependencies is"),
        ({"$ref": "https://example.com/a.json"}, r"\$ref 'https://example.com/a.json'"),
        ({"type": "nonsense"}, "the json_schema is not valid: #/type: 'nonsense' is not valid"),
    ],
)
def test_what_answers_would_not_follow_is_refused(
    schema: dict[str, Any], message: str, compiler: GrammarCompiler
) -> None:
    """Such keywords were passed over in silence, and the answer broke the schema. An error began
    with a place in the source of the library that found it."""
    with pytest.raises(ValidationError, match=message):
        compiler.compile("json_schema", json.dumps(schema))


def test_names_and_data_are_no_keywords(compiler: GrammarCompiler) -> None:
    schema = {
        "type": "object",
        "properties": {"not": {"enum": [{"if": 1}]}, "if": {"const": {"contains": 2}}},
        "$defs": {"contains": {"type": "integer", "default": {"not": 3}}},
        "patternProperties": {"^contains": {"type": "integer"}},
    }
    compiler.compile("json_schema", json.dumps(schema))


KINDS = {
    "bytes": (decoders.ByteLevel(), ["\u0101", "x\u011f", "\u0120y", "\u00c3\u00a9"]),
    "fallback": (decoders.ByteFallback(), ["<0x01>", "a\nb", "\u2581y", "\u0101"]),
    "plain": (decoders.Fuse(), ["\x01", "x\x1f", " y", "\u0101"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_control_characters_in_json(kind: str) -> None:
    """They were let into strings with minLength or maxLength, which was not JSON then."""
    decoder, words = KINDS[kind]
    core = RustTokenizer(models.WordLevel({t: i for i, t in enumerate(['"', *words])}, '"'))
    core.decoder = decoder
    core.add_tokens(["\t\t"])
    tokenizer = Tokenizer(core, {}, {}, frozenset())
    compiler, bitmask = GrammarCompiler(tokenizer, 6), np.zeros((1, 1), np.int32)
    schema = {"type": "string", "minLength": 1, "maxLength": 9}
    matcher = compiler.compile("json_schema", json.dumps(schema)).matcher()
    matcher.advance(0)
    matcher.fill(bitmask, 0)
    assert [bool(bitmask[0, 0] >> i & 1) for i in range(1, 6)] == [False, False, True, True, False]
    matcher = compiler.compile("regex", "[^a]*").matcher()
    matcher.fill(bitmask, 0)
    assert bitmask[0, 0] >> 1 & 1


def test_equal_sources_are_compiled_once(compiler: GrammarCompiler) -> None:
    assert compiler.compile("regex", "[0-9]+") is compiler.compile("regex", "[0-9]+")
