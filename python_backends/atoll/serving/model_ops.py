"""Control requests: a model's facts, its tokenizer, and ending requests and conversations.

A request with the parameter ``control`` holds a JSON object with ``op`` and the operation's
arguments; its tensors are ignored. The answer is the output ``control``: one JSON text. Gateways
use them instead of reading the checkpoint.

    info      -> facts of the model, its limits, and how long it has been running
    tokenize  inputs, add_special_tokens -> per input [{id, text, special, start, stop}]
    decode    ids, skip_special_tokens   -> texts
    chat      messages, tools            -> {text, tokens}: the prompt that a chat becomes
    chat_template                        -> the template's text; "": the model has none
    regex     pattern                    -> null, if a generator can bind its answers to it
    forget    session_id                 -> null: a generator ends and frees a conversation
    cancel    request_id                 -> true if a request with this id is being answered: it
                                            ends with an error. Safer than cancelling the gRPC call,
                                            which crashes some Triton servers
    load_adapter    name, folder, load_inplace, key -> null: a generator has one more LoRA adapter
    unload_adapter  name, key                       -> null: one less; requests that have begun end

The last two need a key, which only the launcher has (``adapter_ops``).

start and stop count characters; both are null for tokens that are not in the input.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from atoll import __version__, json_text
from atoll.config import Settings
from atoll.errors import UnsupportedModel, ValidationError
from atoll.serving.preparation import PreparationPool
from atoll.serving.triton.response_sender import ResponseSender
from atoll.serving.triton.tensors import FINAL, Array, texts
from atoll.text.chat import ChatTemplate
from atoll.text.chat_options import ChatOptions
from atoll.text.tokenizer import Tokenizer

PARAMETER = "control"
_LIMITS = (
    "max_concurrent_requests", "max_batch_tokens", "max_batch_requests",
    "auto_truncate", "default_prompt_name", "tokenization_workers", "max_best_of",
    "max_stop_sequences", "max_top_n_tokens", "max_batch_prefill_tokens", "max_batch_size",
    "disable_grammar_support",
)  # fmt: skip
# Longer requests are answered in the pool: to tokenize 2 MB and write it as JSON takes seconds.
_INLINE_CHARACTERS = 2048
# Tokens per call of ``json.dumps``.
_PIECE = 1000


Fail = Callable[[ResponseSender, BaseException], None]


# By ``op``: what only an administrator may do. Each may take long, and checks the question's key.
Changes = Mapping[str, Callable[[Mapping[str, Any]], Any]]


class _Question:
    """A control request in the preparation pool."""

    is_preparing = False

    def __init__(self, sender: ResponseSender, fail: Fail) -> None:
        self.sender, self._fail = sender, fail

    @property
    def is_done(self) -> bool:
        return self.sender.is_closed

    def fail(self, error: Exception) -> None:
        if not self.is_done:
            self._fail(self.sender, error)


class ModelOps:
    """Answers control requests of one model.

    pool: for long requests. fail: answers with an error. facts: those that only the model knows
    (task, dtype, max_input_tokens, labels, ...), as JSON values. is_batched: whether the entry's
    tensors have a batch axis. cancel: ends a request by its id. forget: ends a conversation, if the
    model keeps any. compile_regex: of a generator, raises ValidationError. changes: if there is
    anything that an administrator may change.

    current: facts that change, which are part of ``info``.
    """

    def __init__(
        self,
        settings: Settings,
        tokenizer: Tokenizer,
        facts: Mapping[str, Any],
        pool: PreparationPool,
        fail: Fail,
        *,
        chat: ChatTemplate | None = None,
        is_batched: bool,
        cancel: Callable[[str], bool],
        forget: Callable[[str], None] | None = None,
        compile_regex: Callable[[str], object] | None = None,
        changes: Changes = MappingProxyType({}),
    ) -> None:
        self._tokenizer, self._chat, self._is_batched = tokenizer, chat, is_batched
        self._pool, self._fail = pool, fail
        self._began = time.monotonic()
        self.current: Callable[[], Mapping[str, Any]] = dict
        self._info = {
            "version": __version__,
            "model_id": settings.model_id,
            "revision": settings.revision,
            **{name: getattr(settings, name) for name in _LIMITS},
            # If it is not set, the gateway's own limit applies.
            "client_batch_limit": settings.max_client_batch_size,
            "has_chat_template": chat is not None,
            "chat_template_variables": [] if chat is None else sorted(chat.variables),
            "vocab_size": tokenizer.vocab_size,
            "special_tokens": dict(tokenizer.special_tokens),
            **facts,
        }
        self._operations: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "info": lambda question: {
                **self._info,
                **self.current(),
                "uptime_s": time.monotonic() - self._began,
            },
            "tokenize": self._tokenize,
            "decode": self._decode,
            "chat": self._render,
            "chat_template": lambda question: "" if chat is None else chat.text,
            "cancel": lambda question: cancel(str(question.get("request_id") or "")),
        }
        if forget is not None:
            self._operations["forget"] = lambda question: forget(str(question.get("session_id")))
        if compile_regex is not None:
            self._operations["regex"] = partial(_checked, compile_regex)
        self._slow = changes
        self._operations |= self._slow

    def answer(self, parameters: Mapping[str, Any], sender: ResponseSender) -> bool:
        """Whether it is a control request, which is then answered here or in the pool."""
        question = parameters.get(PARAMETER)
        if question is None:
            return False
        reply = partial(self._reply, question, sender)
        try:
            if len(str(question)) <= _INLINE_CHARACTERS and not self._is_slow(question):
                self._pool.check_open()
                reply()
            else:
                self._pool.submit(_Question(sender, self._fail), reply, is_long=True)
        except Exception as error:
            self._fail(sender, error)
        return True

    def _is_slow(self, question: Any) -> bool:
        return any(f'"{name}"' in str(question) for name in self._slow)

    def _reply(self, question: Any, sender: ResponseSender) -> None:
        sender.send(self._outputs(question), FINAL)

    def _outputs(self, question: Any) -> dict[str, Array]:
        array = texts([_json(self._ask(question))])
        return {"control": array.reshape(1, 1) if self._is_batched else array}

    def _ask(self, text: Any) -> Any:
        try:
            question = json_text.loads(text)
        except (TypeError, ValueError) as error:
            raise ValidationError(f"control is not valid JSON: {error}") from None
        name = question.get("op") if isinstance(question, dict) else None
        operation = self._operations.get(str(name))
        if operation is None:
            known = ", ".join(self._operations)
            raise ValidationError(f"control: op is {name!r}; known: {known}")
        return operation(question)

    def _tokenize(self, question: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
        texts = question.get("inputs")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValidationError("control: inputs must be a list of texts")
        special = bool(question.get("add_special_tokens", True))
        return [_tokens(text, self._tokenizer.encoding(text, special)) for text in texts]

    def _decode(self, question: Mapping[str, Any]) -> list[str]:
        rows = question.get("ids")
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            raise ValidationError("control: ids must be a list of lists of token ids")
        skip = bool(question.get("skip_special_tokens", True))
        for token in (token for row in rows for token in row):
            if type(token) is not int or not 0 <= token < self._tokenizer.vocab_size:
                raise ValidationError(
                    f"token id {token!r} is outside the vocabulary of {self._tokenizer.vocab_size}"
                )
        return [self._tokenizer.decode(row, skip) for row in rows]

    def _render(self, question: Mapping[str, Any]) -> dict[str, Any]:
        if self._chat is None:
            raise UnsupportedModel("the model has no chat template")
        messages = question.get("messages")
        if not isinstance(messages, list) or not messages:
            raise ValidationError("messages must be a list with at least one message")
        options = ChatOptions.read(question.get("options") or {})
        text = self._chat.render(messages, question.get("tools"), options)
        core = self._tokenizer.core
        encoding = core.encode_batch([text], add_special_tokens=False)[0]
        return {"text": text, "tokens": _tokens(text, encoding)}


def _checked(compile_regex: Callable[[str], object], question: Mapping[str, Any]) -> None:
    compile_regex(str(question.get("pattern")))


def _json(answer: Any) -> str:
    """Writes long lists of tokens in pieces: one ``json.dumps`` would block all other threads."""
    if not isinstance(answer, list) or not all(isinstance(row, list) for row in answer):
        return _dumps(answer)
    rows = (
        ", ".join(_dumps(row[at : at + _PIECE])[1:-1] for at in range(0, len(row), _PIECE))
        for row in answer
    )
    return f"[{', '.join(f'[{row}]' for row in rows)}]"


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _tokens(text: str, encoding: Any) -> list[dict[str, Any]]:
    rows = zip(
        encoding.ids, encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True
    )
    return [
        {
            "id": token,
            "text": name if special else text[start:stop],
            "special": bool(special),
            "start": None if special else start,
            "stop": None if special else stop,
        }
        for token, name, (start, stop), special in rows
    ]
