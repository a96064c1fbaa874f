"""Errors of a model in the words of the interface that was called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from atoll_client.errors import ValidationError


class Reworded(ABC):
    """``with``: a ValidationError of the model becomes the one that ``words`` returns for it.

    Errors that name a field already (``param``) are the gateway's own and stay as they are.
    """

    @abstractmethod
    def words(self, error: ValidationError) -> ValidationError | None:
        """The error to raise instead; None: the model's own."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValidationError) and error.param is None:
            found = self.words(error)
            if found is not None:
                raise found from error
