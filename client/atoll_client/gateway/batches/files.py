"""POST, GET and DELETE /v1/files: what batches are made of, and what comes of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from starlette.responses import FileResponse

from atoll_client.errors import NotFound, ValidationError
from atoll_client.gateway.batches.answers import DeletedFile, FileList, FileObject, StoredFile
from atoll_client.gateway.batches.schemas import FileBody, FilesQuery
from atoll_client.gateway.batches.upload import receive
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.headers import announced_bytes
from atoll_client.gateway.core.queries import NoQuery, read_query
from atoll_client.gateway.core.schemas import checked
from atoll_client.gateway.core.web import Reply, Request, reply

T = TypeVar("T")
_MEMBER = re.compile(r"(\w+)\[(\w+)\]")


class Download(FileResponse, Generic[T]):
    """A file from disk, in pieces."""

    media_type = "application/octet-stream"


async def create(request: Request, context: Context, body: None) -> Reply[FileObject]:
    """Keeps an uploaded file."""
    store, settings = context.batches, context.settings
    read_query(request, NoQuery)
    await store.open()
    announced = announced_bytes(request.headers)
    if announced <= settings.max_batch_file_bytes:
        # Otherwise, the file may be too large, which is said first.
        store.check_room(announced)
    received = await receive(request, store.folder.uploads, settings.max_batch_file_bytes)
    try:
        found = checked(request, context, FileBody, _nested(received.fields), as_form=True)
        store.check_room(received.num_bytes)
        kept = found.expires_after
        lifetime_s = settings.batch_file_s if kept is None else kept.seconds
        owner = context.keys.owner(request.headers)
        file = await store.add_file(owner, received.content, received.filename, lifetime_s)
    finally:
        received.content.unlink(missing_ok=True)
    return reply(file)


async def files(request: Request, context: Context, body: None) -> Reply[FileList]:
    """A page of the files."""
    query = read_query(request, FilesQuery)
    await context.batches.open()
    owner = context.keys.owner(request.headers)
    found = [
        one.file for one in context.batches.files.values()
        if one.owner == owner and query.purpose in (None, one.file["purpose"])
    ]  # fmt: skip
    if query.order == "desc":
        found.reverse()
    shown, has_more = page(found, query)
    answer: FileList = {
        "object": "list", "data": shown, "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None, "has_more": has_more,
    }  # fmt: skip
    return reply(answer)


async def retrieve(request: Request, context: Context, body: None) -> Reply[FileObject]:
    """What a file is."""
    return reply((await _found(request, context)).file)


async def delete(request: Request, context: Context, body: None) -> Reply[DeletedFile]:
    """Deletes a file. A batch that was made of it goes on."""
    file_id = (await _found(request, context)).file["id"]
    await context.batches.drop_file(file_id)
    answer: DeletedFile = {"id": file_id, "object": "file", "deleted": True}
    return reply(answer)


async def content(request: Request, context: Context, body: None) -> Download[bytes]:
    """What is in a file."""
    file_id = (await _found(request, context)).file["id"]
    return Download(context.batches.folder.content(file_id))


def file_of(context: Context, owner: str, file_id: str, param: str) -> StoredFile:
    """A file of an owner. Raises NotFound: there is none of this id."""
    found = context.batches.files.get(file_id)
    if found is None or found.owner != owner:
        raise NotFound(f"No such File object: {file_id:.100}", param=param, code="file_not_found")
    return found


async def _found(request: Request, context: Context) -> StoredFile:
    read_query(request, NoQuery)
    await context.batches.open()
    owner = context.keys.owner(request.headers)
    return file_of(context, owner, request.path_params["file_id"], "file_id")


class _Page(Protocol):
    after: str | None
    limit: int


def page(found: Sequence[T], query: _Page) -> tuple[list[T], bool]:
    """The part of a list of objects that a query asks for, and whether there are more.

    Raises:
        ValidationError: ``after`` is none of them.
    """
    objects: Sequence[Any] = found
    start = 0
    if query.after is not None:
        places = (i + 1 for i, one in enumerate(objects) if one["id"] == query.after)
        start = next(places, -1)
        if start < 0:
            raise ValidationError.of("after", f"is {query.after!r:.100}, which is not in the list")
    return list(found[start : start + query.limit]), len(found) > start + query.limit


def _nested(fields: dict[str, Any]) -> dict[str, Any]:
    """``expires_after[seconds]`` as a member of ``expires_after``."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        match = _MEMBER.fullmatch(name)
        if match is None:
            found[name] = value
        else:
            members = found.setdefault(match[1], {})
            if not isinstance(members, dict):
                raise ValidationError.of(match[1], "is given both as a text and by its members")
            members[match[2]] = value
    return found
