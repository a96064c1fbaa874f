"""A conversation so far: running text, or the messages of a chat.

Frozen: each turn creates a new transcript, so that a failed turn does not change anything.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.errors import EmptyInputError, ValidationError
from atoll.serving.requests.option_names import json_list


@dataclass(frozen=True)
class Transcript:
    """Text or messages, never both. tools: the most recent ones, as JSON text."""

    text: str = ""
    messages: tuple[Any, ...] = ()
    tools: str | None = None

    def asked(self, text: str | None, messages: str | None, tools: str | None) -> Transcript:
        """With one more turn of the client; ``messages`` is a JSON list.

        Raises:
            ValidationError: an empty turn, both kinds at once, or another kind than before.
        """
        if text and messages:
            raise ValidationError("text_input and messages are set; expected one of them")
        if not (text or messages):
            raise EmptyInputError("text_input is empty")
        if (text and self.messages) or (messages and self.text):
            began = "messages" if self.messages else "text_input"
            raise ValidationError(f"the conversation began with {began}; it goes on with them")
        if text:
            return dataclasses.replace(self, text=self.text + text)
        found = (*self.messages, *json_list("messages", messages or ""))
        return dataclasses.replace(self, messages=found, tools=tools or self.tools)

    def answered(self, answer: str) -> Transcript:
        """With the generator's answer."""
        if not self.messages:
            return dataclasses.replace(self, text=self.text + answer)
        said = {"role": "assistant", "content": answer}
        return dataclasses.replace(self, messages=(*self.messages, said))

    def inputs(self) -> Mapping[str, str]:
        """The generator's input tensors for the whole conversation."""
        if not self.messages:
            return {"text_input": self.text}
        chat = {"messages": json.dumps(self.messages, ensure_ascii=False)}
        return chat if self.tools is None else {**chat, "tools": self.tools}
