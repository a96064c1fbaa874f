"""How a decoder that reranks is asked: the text of a query and a document, by family.

The texts are those of the model cards and of the families' own libraries, character by character: a
model's scores mean nothing for other ones. Parts of a text that the reference tokenizes on their
own are parts here, since tokens would otherwise cross from one to the next.

Sources: the cards of Qwen/Qwen3-Reranker-0.6B and BAAI/bge-reranker-v2-gemma, MxbaiRerankV2 of
mxbai-rerank 0.1.6, and sentence-transformers 6 for chat templates with roles for both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from atoll.errors import ConfigError, ValidationError
from atoll.text.chat import ChatTemplate
from atoll.text.chat_options import ChatOptions
from atoll.text.tokenizer import Tokenizer
from atoll.weights.json_fields import Fields
from atoll.weights.modules import SENTENCE_FILE, sentence_config, transformer_folder

# Stand in for a query, a document and an instruction, to see where a template puts them.
_QUERY, _DOCUMENT, _INSTRUCTION = (f"a {role} of 7c1fe0b2" for role in ("query", "text", "task"))
# Keys of a file's options for chat templates that are no variables of the template.
_CHAT_OPTIONS = frozenset({"add_generation_prompt", "chat_template", "restore_suffix"})


class Part(NamedTuple):
    """A text that is tokenized on its own. has_specials: with the tokenizer's special tokens."""

    text: str
    has_specials: bool = False


class PairText(NamedTuple):
    """The parts of a text, in order; ``own`` is the one with the document."""

    before: tuple[Part, ...]
    own: Part
    after: tuple[Part, ...]


class PairPrompt(ABC):
    """Makes texts of queries and documents. instruction: the default; None: there is none."""

    instruction: str | None = None
    takes_instruction = True

    @abstractmethod
    def text(self, query: str, document: str, instruction: str | None) -> PairText:
        """The text; ``instruction`` replaces the default."""

    def tail(self, query: str, instruction: str | None) -> int:
        """How many characters follow the document in its own part."""
        return 0


class QwenPrompt(PairPrompt):
    """Qwen3-Reranker."""

    instruction = "Given a web search query, retrieve relevant passages that answer the query"
    _BEFORE = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n"
    )
    _AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

    def text(self, query: str, document: str, instruction: str | None) -> PairText:
        """See ``PairPrompt``."""
        asked = self.instruction if instruction is None else instruction
        own = f"<Instruct>: {asked}\n<Query>: {query}\n<Document>: {document}"
        return PairText((Part(self._BEFORE),), Part(own, has_specials=True), (Part(self._AFTER),))


class MxbaiPrompt(PairPrompt):
    """mxbai-rerank-base-v2 and -large-v2."""

    _BEFORE = (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
        "<|im_end|>\n<|im_start|>user\n"
    )
    _TASK = (
        "You are a search relevance expert who evaluates how well documents match search queries. "
        "For each query-document pair, carefully analyze the semantic relationship between them, "
        "then provide your binary relevance judgment (0 for not relevant, 1 for relevant).\n"
        "Relevance:"
    )
    _AFTER = "<|im_end|>\n<|im_start|>assistant\n"

    def text(self, query: str, document: str, instruction: str | None) -> PairText:
        """See ``PairPrompt``."""
        asked = f"instruction: {instruction}\n" if instruction else ""
        before = (self._BEFORE, f"{asked}query: {query}", "\n")
        after = ("\n", self._TASK, self._AFTER)
        own = Part(f"document: {document}")
        return PairText(tuple(map(Part, before)), own, tuple(map(Part, after)))


class GemmaPrompt(PairPrompt):
    """bge-reranker-v2-gemma. bos: its first token, as text."""

    instruction = (
        "Given a query A and a passage B, determine whether the passage contains an answer to the "
        "query by providing a prediction of either 'Yes' or 'No'."
    )

    def __init__(self, bos: str) -> None:
        self._bos = bos

    def text(self, query: str, document: str, instruction: str | None) -> PairText:
        """See ``PairPrompt``."""
        asked = self.instruction if instruction is None else instruction
        before, after = (self._bos, f"A: {query}", "\n"), ("\n", asked)
        own = Part(f"B: {document}")
        return PairText(tuple(map(Part, before)), own, tuple(map(Part, after)))


class ChatPrompt(PairPrompt):
    """A chat template with messages of the roles system (the instruction), query and document."""

    def __init__(
        self, template: ChatTemplate, options: Mapping[str, Any], instruction: str | None
    ) -> None:
        """options: what the template is rendered with, by sentence-transformers' files.

        Raises:
            ConfigError: the template cannot be rendered, or leaves the query or the document out.
        """
        self._template, self.instruction = template, instruction
        variables = {k: v for k, v in options.items() if k not in _CHAT_OPTIONS}
        self._options = ChatOptions(bool(options.get("add_generation_prompt")), variables=variables)
        try:
            shown = self._render(_QUERY, _DOCUMENT, _INSTRUCTION)
        except ValidationError as error:
            raise ConfigError(f"the chat template takes no query and document: {error}") from error
        for role, probe in (("query", _QUERY), ("document", _DOCUMENT)):
            if probe not in shown:
                raise ConfigError(f"the chat template leaves out messages of the role {role}")
        self.takes_instruction = _INSTRUCTION in shown

    def text(self, query: str, document: str, instruction: str | None) -> PairText:
        """See ``PairPrompt``."""
        return PairText((), Part(self._render(query, document, instruction)), ())

    def tail(self, query: str, instruction: str | None) -> int:
        """See ``PairPrompt``; templates may strip a document, but nothing else depends on it."""
        shown = self._render(query, _DOCUMENT, instruction)
        return len(shown) - shown.rindex(_DOCUMENT) - len(_DOCUMENT)

    def _render(self, query: str, document: str, instruction: str | None) -> str:
        instruction = self.instruction if instruction is None else instruction
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        if instruction:
            messages.insert(0, {"role": "system", "content": instruction})
        return self._template.render(messages, options=self._options)


def prompt_of(
    template: str, folder: Path, tokenizer: Tokenizer, instruction: str | None
) -> PairPrompt:
    """The prompt of a template's name, see ``models.rerankers``.

    instruction: the default that the files name, in place of the published one.

    Raises:
        ConfigError: the checkpoint's chat template cannot be used.
    """
    if template == "chat-template":
        return _chat_prompt(folder, tokenizer, instruction)
    prompt: PairPrompt
    if template == "qwen3-reranker":
        prompt = QwenPrompt()
    elif template == "mxbai-rerank-v2":
        prompt = MxbaiPrompt()
    else:
        prompt = GemmaPrompt(tokenizer.special_tokens.get("bos_token", ""))
    prompt.instruction = instruction or prompt.instruction
    return prompt


def _chat_prompt(folder: Path, tokenizer: Tokenizer, instruction: str | None) -> ChatPrompt:
    """The chat template that sentence-transformers' files select, or else the default one."""
    found = ChatTemplate.load(transformer_folder(folder), tokenizer)
    if found is None:
        raise ConfigError(f"{folder}: reranker_template is 'chat-template'; there is none")
    processing = Fields(sentence_config(folder), SENTENCE_FILE).inside("processing_kwargs")
    options = processing.inside("chat_template")
    if options.has("chat_template"):
        name = options.text("chat_template")
        if name not in found.variants and "{" not in name:
            raise options.wrong(f"one of {', '.join(sorted(found.variants))}", "chat_template")
        variant = {"default": found.variants.get(name, name)}
        found = ChatTemplate(variant, tokenizer.special_tokens)
    return ChatPrompt(found, options.raw, instruction)
