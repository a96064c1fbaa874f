"""Types of numpy arrays in responses, which the JSON encoder writes as lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema

from atoll_client.types import Floats


@dataclass(frozen=True)
class _WrittenAs:
    kind: Any

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return handler.generate_schema(self.kind)


# Shapes: (width,), and (rows, width).
Vector = Annotated[Floats, _WrittenAs(list[float])]
Vectors = Annotated[Floats, _WrittenAs(list[list[float]])]
