"""What the admin routes take, as pydantic models."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

# Of Linux, in bytes: of a path, and of each of its parts.
_MAX_PATH, _MAX_PART = 4095, 255


def _check_place(text: str) -> str:
    """Raises PydanticCustomError: no file system can have this path, and no hub this id."""
    if "\0" in text:
        raise PydanticCustomError("place", "it must be without the character NUL")
    given = text.encode(errors="surrogatepass")
    if len(given) > _MAX_PATH or any(len(part) > _MAX_PART for part in given.split(b"/")):
        raise PydanticCustomError(
            "place",
            f"it must be a hub id or a path of at most {_MAX_PATH} bytes, each part of at most "
            f"{_MAX_PART}",
        )
    return text


# A folder, or something of the hub.
Place = Annotated[str, Field(min_length=1), AfterValidator(_check_place)]


class AdminBody(BaseModel):
    """What every body may have."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    stream: bool = Field(False, description="a line of JSON for each thing that happens")


class LoadBody(AdminBody):
    """Of ``/admin/models/load``."""

    model: Place = Field(description="name of an entry, hub id, or folder")
    name: str | None = Field(None, min_length=1, description="name to serve it under")
    settings: dict[str, str] = Field(default={}, description="settings by name, as texts")


class UnloadBody(AdminBody):
    """Of ``/admin/models/unload``."""

    model: str = Field(min_length=1)
    grace_s: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="seconds that its requests get to end"
    )


class LoadAdapterBody(AdminBody):
    """Of ``/admin/adapters/load``; the names are vLLM's."""

    lora_name: str = Field(min_length=1)
    lora_path: Place = Field(description="a folder of the server's machine, or a hub id")
    load_inplace: bool = Field(False, description="in place of one of that name")
    model: str | None = Field(None, description="the generator, if there are several")


class UnloadAdapterBody(AdminBody):
    """Of ``/admin/adapters/unload``."""

    lora_name: str = Field(min_length=1)
    model: str | None = None


class ReloadBody(AdminBody):
    """Of ``/admin/models/reload``."""

    model: str = Field(min_length=1)
    settings: dict[str, str] = Field(default={}, description="those that change")
