"""Asks a server's admin routes: over its Unix socket, or over the network with a key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from atoll.errors import AtollError, ConfigError, NotReady
from atoll.launcher.admin import sockets
from atoll.launcher.admin.keys import read_key

_CONNECT_S, _ANSWER_S = 5.0, 60.0


class AdminClient:
    """One server. ``address``: the path of a socket, or the URL of an admin port or a gateway.

    Raises:
        ConfigError: a key is needed, or cannot be read.
    """

    def __init__(self, address: str | Path, key_file: Path | None = None) -> None:
        self.address = str(address)
        headers: dict[str, str] = {}
        if self.address.startswith(("http://", "https://")):
            if key_file is None:
                raise ConfigError(
                    f"{self.address} is asked over the network: --admin-key-file names the file "
                    "that holds the key"
                )
            headers["authorization"] = f"Bearer {read_key(key_file)}"
            url, transport = self.address.rstrip("/"), None
        else:
            url, transport = "http://atoll", httpx.HTTPTransport(uds=self.address)
        # What a server has to do may take as long as a download.
        timeout = httpx.Timeout(None, connect=_CONNECT_S)
        self._client = httpx.Client(
            base_url=url, transport=transport, headers=headers, timeout=timeout
        )

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def models(self) -> dict[str, Any]:
        """See ``report``."""
        with self._answer("GET", "/admin/models", timeout=_ANSWER_S) as response:
            found: dict[str, Any] = json.loads(response.read())
            return found

    def events(self, operation: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What happens while a server works; ``operation``: a path below ``/admin/``.

        Raises:
            AtollError: it failed; says why.
        """
        given = {**body, "stream": True}
        with self._answer("POST", f"/admin/{operation}", json=given) as response:
            for line in response.iter_lines():
                event = json.loads(line)
                if "error" in event:
                    raise AtollError(str(event["error"]))
                yield event

    def logs(self, num_lines: int, model: str, is_following: bool) -> Iterator[str]:
        """Pieces of the server's log."""
        query = {"lines": str(num_lines), "model": model, "follow": str(is_following).lower()}
        with self._answer("GET", "/admin/logs", params=query) as response:
            yield from response.iter_text()

    def _answer(self, method: str, path: str, **options: Any) -> _Answer:
        return _Answer(self._client, self.address, method, path, options)


class _Answer:
    """``with``: a response that is not an error.

    Raises:
        NotReady: the server cannot be reached, or ends. AtollError: it refuses; says why.
    """

    def __init__(
        self, client: httpx.Client, address: str, method: str, path: str, options: dict[str, Any]
    ) -> None:
        self._address = address
        self._stream = client.stream(method, path, **options)

    def __enter__(self) -> httpx.Response:
        try:
            response = self._stream.__enter__()
        except httpx.HTTPError as error:
            raise NotReady(f"the server at {self._address} cannot be reached: {error}") from error
        if response.status_code == 200:
            return response
        text = response.read().decode(errors="replace")
        self._stream.__exit__(None, None, None)
        raise AtollError(f"{self._address}: {_reason(text)} ({response.status_code})")

    def __exit__(self, *error: Any) -> None:
        self._stream.__exit__(*error)
        if isinstance(error[1], httpx.HTTPError):
            raise NotReady(f"the server at {self._address} has ended the connection") from error[1]


def _reason(text: str) -> str:
    try:
        found = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return text.strip()[:500] or "no reason"
    return str(found.get("message", found) if isinstance(found, dict) else found)


def addresses() -> list[Path]:
    """The servers of this user on this machine."""
    return sockets.running()
