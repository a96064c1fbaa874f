"""The launcher that has started the gateway: its socket, and what the gateway itself asks it."""

from __future__ import annotations

import httpx

from atoll_client.errors import NotOffered, NotReady

_CONNECT_S = 5.0


def connected(path: str) -> httpx.AsyncClient:
    """Asks the launcher whose socket this is.

    Raises:
        NotOffered: the gateway was started by itself, and has none.
    """
    if not path:
        raise NotOffered("the gateway knows of no launcher that could manage models (admin_socket)")
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=path), base_url="http://atoll",
        timeout=httpx.Timeout(None, connect=_CONNECT_S),
    )  # fmt: skip


async def load(path: str, model: str) -> None:
    """Has a model loaded.

    Raises:
        NotReady: the launcher does not answer, or cannot load it; says why.
    """
    async with connected(path) as client:
        try:
            answer = await client.post("/admin/models/load", json={"model": model})
        except httpx.HTTPError as error:
            raise NotReady(f"the launcher does not answer: {error}") from error
    if answer.status_code != 200:
        raise NotReady(str(answer.json().get("error")))
