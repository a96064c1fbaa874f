"""Bodies and queries of the admin routes. The launcher checks them, and refuses other fields."""

from __future__ import annotations

from pydantic import BaseModel, Field


class _Streamed(BaseModel):
    stream: bool = Field(False, description="a line of JSON for each thing that happens")


class LoadBody(_Streamed):
    """A model to load."""

    model: str = Field(description="name of an entry, hub id, or folder on the server")
    name: str | None = Field(None, description="name to serve it under")
    settings: dict[str, str] = Field(default={}, description="settings by name, as texts")


class UnloadBody(_Streamed):
    """A model to unload."""

    model: str
    grace_s: float | None = Field(None, ge=0, description="seconds that its requests get to end")


class ReloadBody(_Streamed):
    """A model to replace by itself."""

    model: str
    settings: dict[str, str] = Field(default={}, description="those that change")


class LogQuery(BaseModel):
    """Which part of the log."""

    lines: int = Field(100, ge=0, description="of its end")
    model: str = Field("", description="only lines that name it")
    follow: bool = Field(False, description="go on with lines that come")
