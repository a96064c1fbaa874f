"""What the routes of files and batches answer, and what is kept of each on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import TypedDict

Status = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling",
    "cancelled",
]  # fmt: skip
UNFINISHED = frozenset(("validating", "in_progress", "finalizing", "cancelling"))


class FileObject(TypedDict):
    """A file: a batch's requests, answers or errors."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]
    status_details: None


class FileList(TypedDict):
    """A page of files."""

    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(TypedDict):
    """A file that was deleted."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class BatchError(TypedDict):
    """What is wrong with a line of a batch's file; the first line is 1."""

    code: str | None
    line: int | None
    message: str
    param: str | None


class BatchErrors(TypedDict):
    """Why a batch has failed."""

    object: Literal["list"]
    data: list[BatchError]


class RequestCounts(TypedDict):
    """Lines by what became of them."""

    total: int
    completed: int
    failed: int


class CachedTokens(TypedDict):
    """Of the input tokens."""

    cached_tokens: int


class ReasoningTokens(TypedDict):
    """Of the output tokens."""

    reasoning_tokens: int


class BatchUsage(TypedDict):
    """The tokens of all answers."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class Batch(TypedDict):
    """A batch; times in seconds since 1970."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None


class BatchList(TypedDict):
    """A page of batches, the newest first."""

    object: Literal["list"]
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool


@dataclass(frozen=True)
class StoredFile:
    """A file of the folder. owner: of its API key. order: by which lists are sorted."""

    owner: str
    order: int
    file: FileObject


@dataclass
class StoredBatch:
    """A batch of the folder.

    path_model: the model that the path of its creation named. output_s: how long its files are
    kept. outputs: the ids of its files, once they have been chosen.
    """

    owner: str
    order: int
    path_model: str | None
    output_s: int
    batch: Batch
    outputs: dict[str, str] | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it has come to its end."""
        return self.batch["status"] not in UNFINISHED


def no_usage() -> BatchUsage:
    """The usage of no answers."""
    return {
        "input_tokens": 0, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 0,
    }  # fmt: skip


def add_usage(total: BatchUsage, body: Any) -> None:
    """Adds the usage of an answer in the format of any endpoint."""
    given = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(given, dict):
        return
    asked = given.get("input_tokens", given.get("prompt_tokens")) or 0
    written = given.get("output_tokens", given.get("completion_tokens")) or 0
    of_input = given.get("input_tokens_details") or given.get("prompt_tokens_details") or {}
    of_output = given.get("output_tokens_details") or given.get("completion_tokens_details") or {}
    total["input_tokens"] += asked
    total["output_tokens"] += written
    total["total_tokens"] += asked + written
    total["input_tokens_details"]["cached_tokens"] += of_input.get("cached_tokens") or 0
    total["output_tokens_details"]["reasoning_tokens"] += of_output.get("reasoning_tokens") or 0
