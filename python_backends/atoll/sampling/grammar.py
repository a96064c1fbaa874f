"""Answers constrained by a JSON schema, a regular expression or a grammar (through xgrammar).

Compiling may take seconds and never happens on the engine's thread; compiled grammars are cached.
A grammar that may take long is tried in a process of its own first, which can be ended.
A ``Matcher`` follows one answer and determines which tokens are allowed next.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atoll.errors import Cancelled, ValidationError
from atoll.sampling.grammar_process import try_apart
from atoll.sampling.inputs import Ints
from atoll.text.tokenizer import Tokenizer

# Longer ones are refused: the time to compile grows with them.
MAX_CHARACTERS = 100_000
_MAX_CACHED = 128
# A byte of an automaton takes up to 16 us; most schemas of tools have less than a tenth of this.
MAX_UNTRIED_BYTES = 1_000_000
_JSON_KINDS = ("json_schema", "json_object")
# Where in its source xgrammar found an error.
_PLACE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")


class Matcher:
    """One answer's state in its grammar; see ``engine.request.Matcher``. Engine thread only."""

    def __init__(self, compiled: Any, has_end: bool) -> None:
        import xgrammar

        self._matcher = xgrammar.GrammarMatcher(compiled, terminate_without_stop_token=not has_end)
        self._vocab_size = compiled.tokenizer_info.vocab_size

    @property
    def is_done(self) -> bool:
        """True once no further token is allowed."""
        return bool(self._matcher.is_terminated())

    def advance(self, token_id: int) -> None:
        """Accepts the sampled token.

        Raises:
            ValidationError: it is not allowed; no allowed token was available.
        """
        if not self._matcher.accept_token(token_id):
            raise self.refusal()

    def refusal(self) -> ValidationError:
        """The error of an answer that has no allowed token."""
        return ValidationError(f"the answer cannot go on within its grammar: {self._obstacle()}")

    def _obstacle(self) -> str:
        bitmask = np.zeros((1, -(-self._vocab_size // 32)), np.int32)
        self.fill(bitmask, 0)
        if bitmask.any():
            return "other options of the request ban every token that it allows here"
        return "the model has no token for the text that it asks for here"

    def fill(self, bitmask: npt.NDArray[np.int32], row: int) -> None:
        """Marks the allowed tokens in a row of the bitmask (rows, words)."""
        self._matcher.fill_next_token_bitmask(bitmask, row)


class Grammar:
    """A compiled grammar, shared by all answers that use it."""

    def __init__(self, compiled: Any, has_end: bool, vocab_size: int) -> None:
        self._compiled, self._has_end, self.vocab_size = compiled, has_end, vocab_size

    def matcher(self) -> Matcher:
        """A new matcher, at the beginning of an answer."""
        return Matcher(self._compiled, self._has_end)


def mask(logits: Tensor, rows: Ints, bitmask: npt.NDArray[np.int32]) -> None:
    """Sets the scores of tokens that are not allowed to -inf; mutates logits (rows, vocab).

    rows, bitmask: as in ``SamplingInput``.
    """
    if logits.device.type != "cpu":
        _mask_on_device(logits, torch.tensor(rows), torch.tensor(bitmask))
        return
    import xgrammar

    every = torch.zeros(len(logits), bitmask.shape[1], dtype=torch.int32)
    every.numpy()[rows] = bitmask
    xgrammar.apply_token_bitmask_inplace(logits, every, indices=rows.tolist())


def _mask_on_device(logits: Tensor, rows: Tensor, bitmask: Tensor) -> None:
    """Replaces xgrammar's own GPU code, which compiles a kernel while requests wait, or fails
    without a compiler. rows: (masked,) int64; bitmask: (masked, words) int32; both on the host.
    """
    words = bitmask.to(logits.device).unsqueeze(-1)
    bits = (words >> torch.arange(32, dtype=torch.int32, device=logits.device)) & 1
    allowed = bits.flatten(1)[:, : logits.shape[1]] == 1
    at = rows.to(logits.device)
    logits[at] = logits[at].masked_fill(~allowed, float("-inf"))


class GrammarCompiler:
    """Turns the options of a request into grammars. Any number of threads may compile at once.

    vocab_size: the model's, which may be larger than the tokenizer's.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._has_end = bool(tokenizer.eos_token_ids)
        self._compilers: dict[bool, _Compilers] = {}
        self._cached: OrderedDict[tuple[str, str], Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(
        self, kind: str, source: str, is_over: Callable[[], bool] = lambda: False
    ) -> Grammar:
        """``kind``: json_schema, json_object, regex, choice (a JSON list) or grammar (EBNF).

        is_over: whether nobody waits for the grammar any more; asked again and again if it takes
            long.

        Raises:
            ValidationError: the source cannot be compiled; says why.
            Cancelled: it is over.
        """
        if len(source) > MAX_CHARACTERS:
            raise ValidationError(
                f"the {kind} has {len(source)} characters; the most allowed is {MAX_CHARACTERS}"
            )
        key = kind, source
        with self._lock:
            if key in self._cached:
                self._cached.move_to_end(key)
                return self._cached[key]
        # Outside the lock, so that a slow grammar does not block others.
        grammar = self._compile(kind, source, is_over)
        with self._lock:
            self._cached[key] = grammar
            if len(self._cached) > _MAX_CACHED:
                self._cached.popitem(last=False)
        return grammar

    def _compile(self, kind: str, source: str, is_over: Callable[[], bool]) -> Grammar:
        is_json = kind in _JSON_KINDS
        made = _made(kind, source)
        if is_json not in self._compilers:
            self._compilers[is_json] = _compilers(self._tokenizer, self._vocab_size, is_json)
        compilers = self._compilers[is_json]
        try:
            if compilers.size(made) > MAX_UNTRIED_BYTES:
                try_apart(made, compilers.info, is_over)
            compiled = compilers.whole.compile_grammar(made)
        except (Cancelled, OSError):
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
            reason = _PLACE.sub("", reason)
            raise ValidationError(f"the {kind} is not valid: {reason}") from error
        return Grammar(compiled, self._has_end, self._vocab_size)


def _made(kind: str, source: str) -> str:
    """EBNF; kind: see ``GrammarCompiler.compile``. Raises ValidationError."""
    # Imports jsonschema, which would be a tenth of the time that a server takes to start.
    from atoll.sampling.schema import choice_grammar, json_grammar, regex_grammar

    match kind:
        case "json_schema":
            return json_grammar(source)
        case "json_object":
            return json_grammar('{"type": "object"}')
        case "regex":
            return regex_grammar(source)
        case "choice":
            return choice_grammar(json.loads(source))
        case _:
            return source


class _Compilers(NamedTuple):
    """xgrammar's, for one vocabulary. quick: leaves out the tables of tokens, which take long."""

    info: Any
    whole: Any
    quick: Any

    def size(self, made: str) -> int:
        """Bytes of a grammar's automata; the time for its tables of tokens grows with them."""
        return int(self.quick.compile_grammar(made).memory_size_bytes)


def _compilers(tokenizer: Tokenizer, vocab_size: int, is_json: bool) -> _Compilers:
    import xgrammar

    core = tokenizer.core
    kind = _vocab_type(json.loads(core.to_str()))
    special = {i for i, token in core.get_added_tokens_decoder().items() if token.special}
    vocabulary = [core.id_to_token(i) or "" for i in range(tokenizer.vocab_size)]
    # A special token has no text: inside a string it would be missing from the answer. And JSON has
    # no control characters, which xgrammar accepts in strings with a limited length.
    is_control = _control_test(kind) if is_json else lambda token: False
    vocabulary = ["" if i in special or is_control(t) else t for i, t in enumerate(vocabulary)]
    info = xgrammar.TokenizerInfo(
        vocabulary[:vocab_size], kind, vocab_size=vocab_size,
        stop_token_ids=sorted(tokenizer.eos_token_ids) or None,
    )  # fmt: skip
    whole, quick = (
        xgrammar.GrammarCompiler(
            info, max_threads=1, cache_enabled=False, enable_dynamic_compilation=is_quick
        )
        for is_quick in (False, True)
    )
    return _Compilers(info, whole, quick)


def _control_test(kind: Any) -> Callable[[str], bool]:
    """Tests whether a token, as this vocabulary spells it, contains a control character."""
    import xgrammar

    spelled = {
        # GPT-2 writes such a byte b as character 256 + b; added tokens are plain text.
        xgrammar.VocabType.BYTE_LEVEL: "[\x00-\x1f\u0100-\u011f]",
        xgrammar.VocabType.BYTE_FALLBACK: r"[\x00-\x1f]|^<0x[01][0-9A-Fa-f]>$",
    }
    pattern = re.compile(spelled.get(kind, r"[\x00-\x1f]"))
    return lambda token: pattern.search(token) is not None


def _vocab_type(description: dict[str, Any]) -> Any:
    """How the vocabulary spells bytes, from the decoders in tokenizer.json."""
    import xgrammar

    decoder = description.get("decoder") or {}
    kinds = {d.get("type") for d in [decoder, *decoder.get("decoders", ())]}
    if "ByteLevel" in kinds:
        return xgrammar.VocabType.BYTE_LEVEL
    has_bytes = kinds & {"ByteFallback", "Metaspace"}
    return xgrammar.VocabType.BYTE_FALLBACK if has_bytes else xgrammar.VocabType.RAW
