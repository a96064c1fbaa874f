"""What the admin routes take, as pydantic models."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class AdminBody(BaseModel):
    """What every body may have."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    stream: bool = Field(False, description="a line of JSON for each thing that happens")


class LoadBody(AdminBody):
    """Of ``/admin/models/load``."""

    model: str = Field(min_length=1, description="name of an entry, hub id, or folder")
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
    lora_path: str = Field(
        min_length=1, description="a folder of the server's machine, or a hub id"
    )
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
