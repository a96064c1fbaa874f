"""The encoders of a model: one, or one for queries and one for documents (``Routes``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from atoll.encoders.encoder import Encoder
from atoll.errors import ValidationError
from atoll.text.text_encoder import TextEncoder
from atoll.text.tokenizer import Tokenizer
from atoll.weights.router_files import Routes, read_routes, route_folders


class RoutedEncoders(NamedTuple):
    """encoders, text_encoders: by route; by None if there is one for all texts."""

    encoders: Mapping[str | None, Encoder]
    text_encoders: Mapping[str | None, TextEncoder]
    routes: Routes | None

    @classmethod
    def load(
        cls, folder: Path, tokenizer: Tokenizer, load: Callable[[Path], Encoder]
    ) -> RoutedEncoders:
        """tokenizer: of ``folder``. load: makes a folder's encoder; the last one that it makes
        stands for the model.

        Raises:
            ConfigError, UnsupportedModel, WeightError: one of them cannot be used.
        """
        routes = read_routes(folder)
        if routes is None:
            encoder = load(folder)
            return cls({None: encoder}, {None: _text_encoder(tokenizer, encoder)}, None)
        encoders: dict[str | None, Encoder] = {}
        text_encoders: dict[str | None, TextEncoder] = {}
        with route_folders(folder, routes) as folders:
            for name in sorted(folders, key=lambda name: name == routes.main):
                encoders[name] = load(folders[name])
                own = Tokenizer.load(folders[name])
                text_encoders[name] = _text_encoder(own, encoders[name])
        return cls(encoders, text_encoders, routes)

    @property
    def main(self) -> Encoder:
        """The encoder that stands for the model."""
        return self.encoders[None if self.routes is None else self.routes.main]

    @property
    def pooling(self) -> str | None:
        """How the vectors of a text's tokens become one."""
        if self.routes is None:
            return self.main.spec.pooling
        routes = self.routes.modules
        return self.routes.told({name: self.encoders[name].spec.pooling for name in routes})

    @property
    def unprompted(self) -> dict[str, str]:
        """The types of inputs, as prompts without a text."""
        return {} if self.routes is None else dict.fromkeys(self.routes.by_type, "")

    def route(self, given: Mapping[str, Any]) -> str | None:
        """By a request's ``input_type``, or by its ``prompt_name`` if that is one, or the default.

        Raises:
            ValidationError: no route, no such route, or no routes at all.
        """
        asked = given.get("input_type")
        if self.routes is None:
            if asked is not None:
                raise ValidationError(
                    f"input_type is {asked!r}; the model encodes all texts alike (prompts are "
                    "chosen by prompt_name)"
                )
            return None
        known = self.routes.by_type
        if asked is None and given.get("prompt_name") in known:
            asked = given["prompt_name"]
        if asked is not None and asked not in known:
            raise ValidationError(f"input_type is {asked!r}; the model has {', '.join(known)}")
        found = self.routes.default if asked is None else known[asked]
        if found is None:
            raise ValidationError(f"input_type is missing; the model has {', '.join(known)}")
        return found

    def prompt_name(self, given: Mapping[str, Any]) -> Any:
        """A request's ``prompt_name``; None for a type of inputs that has no prompt."""
        name = given.get("prompt_name")
        return None if name in self.unprompted and name not in self.main.spec.prompts else name


def _text_encoder(tokenizer: Tokenizer, encoder: Encoder) -> TextEncoder:
    return TextEncoder(
        tokenizer.core, encoder.spec.max_length, encoder.num_token_types, encoder.vocab_size
    )
