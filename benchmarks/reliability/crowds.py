"""One client who asks for far more than his share, until he is ended.

``python benchmarks/reliability/crowds.py NAME --url http://127.0.0.1:8080 --key KEY`` prints
``ready`` once all of its requests are under way, and, when its standard input is closed, what was
done meanwhile, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx

GENERATOR, EMBEDDER = "smollm2-135m-instruct", "all-minilm-l6-v2"
_SHORT = [f"The {word} lies in the lagoon." for word in ("boat", "shell", "reef", "net")] * 64
_LONG = ["The tide comes and goes, and with it the boats. " * 40] * 32
_PROMPT = "The tide comes and goes. " * 250
_LINES = 2000
_ENDED = ("completed", "failed", "expired", "cancelled")


class Crowd:
    """Counts: of what there was. began: of those that have been under way at least once."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client, self.counts, self.began = client, Counter[str](), 0

    async def streams(self, number: int, *, is_read: bool = True) -> None:
        """One chat after the other, each of up to 400 tokens."""
        asked = [{"role": "user", "content": f"Tell me a story of {number} boats."}]
        body = {"model": GENERATOR, "stream": True, "max_tokens": 400, "messages": asked}
        first = True
        while True:
            async with self._asked("/v1/chat/completions", body) as response:
                async for line in response.aiter_lines():
                    self.counts["tokens"] += line.startswith("data: {")
                    self.began, first = self.began + first, False
                    if not is_read:
                        await asyncio.sleep(3600)

    async def unread(self, number: int) -> None:
        """A stream of which only the first token is read."""
        await self.streams(number, is_read=False)

    async def texts(self, number: int, texts: list[str]) -> None:
        """One request for embeddings of many texts after the other."""
        first = True
        while True:
            self.began, first = self.began + first, False
            body = {"model": EMBEDDER, "input": texts}
            async with self._asked("/v1/embeddings", body) as response:
                self.counts["texts"] += len(json.loads(await response.aread())["data"])

    async def short(self, number: int) -> None:
        """256 short texts a request."""
        await self.texts(number, _SHORT)

    async def long(self, number: int) -> None:
        """32 texts of as many tokens as the model takes a request."""
        await self.texts(number, _LONG)

    async def prompts(self, number: int) -> None:
        """Eight prompts of 1,500 tokens a request, of which nothing was seen before."""
        first = True
        while True:
            self.began, first = self.began + first, False
            asked = [f"{number} {time.monotonic()} {at} {_PROMPT}" for at in range(8)]
            body = {"model": GENERATOR, "prompt": asked, "max_tokens": 1}
            async with self._asked("/v1/completions", body) as response:
                self.counts["prompts"] += len(json.loads(await response.aread())["choices"])

    async def batch(self, number: int) -> None:
        """A batch of 2,000 chats of 32 tokens, and another when it has ended."""
        body = {"model": GENERATOR, "max_tokens": 32,
                "messages": [{"role": "user", "content": "Count to a hundred."}]}  # fmt: skip
        lines = "\n".join(
            json.dumps({"custom_id": str(at), "method": "POST", "url": "/v1/chat/completions",
                        "body": body})
            for at in range(_LINES)
        )  # fmt: skip
        while True:
            file = await self.client.post(
                "/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", lines.encode())}
            )
            asked = {"input_file_id": _json(file)["id"], "endpoint": "/v1/chat/completions",
                     "completion_window": "24h"}  # fmt: skip
            found, before = _json(await self.client.post("/v1/batches", json=asked)), 0
            while found["status"] not in _ENDED:
                await asyncio.sleep(0.2)
                found = _json(await self.client.get(f"/v1/batches/{found['id']}"))
                done = found["request_counts"]["completed"]
                self.counts["lines"] += done - before
                before, self.began = done, self.began or done
            if found["status"] != "completed":
                raise RuntimeError(f"the batch has ended: {found}")

    @asynccontextmanager
    async def _asked(self, path: str, body: object) -> AsyncIterator[httpx.Response]:
        """An answer that is not 200 is counted, and asked for again a little later."""
        async with self.client.stream("POST", path, json=body) as response:
            if response.status_code == 200:
                yield response
                return
            self.counts[f"status {response.status_code}"] += 1
            await response.aread()
        await asyncio.sleep(0.2)
        async with self._asked(path, body) as response:
            yield response


# Name -> one request after the other, and how many at once.
CROWDS: dict[str, tuple[Callable[[Crowd, int], Awaitable[None]], int]] = {
    "500 streams": (Crowd.streams, 500),
    "500 streams that nobody reads": (Crowd.unread, 500),
    "8 requests of 256 short texts": (Crowd.short, 8),
    "8 requests of 32 long texts": (Crowd.long, 8),
    "32 requests of 8 prompts": (Crowd.prompts, 32),
    "a batch of 2,000 lines": (Crowd.batch, 1),
}


def _json(response: httpx.Response) -> dict[str, object]:
    return response.raise_for_status().json()


async def run(name: str, url: str, key: str) -> dict[str, float]:
    """Until standard input is closed; returns what was done a second."""
    work, count = CROWDS[name]
    limits = httpx.Limits(max_connections=None)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=None, limits=limits
    ) as client:
        crowd = Crowd(client)
        tasks = [asyncio.create_task(work(crowd, number)) for number in range(count)]
        end = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        # Not all of more streams than the model has places begin at once.
        enough, started = min(count, 200), time.monotonic()
        while crowd.began < enough and time.monotonic() - started < 60:
            await asyncio.wait([*tasks, end], timeout=0.1, return_when=asyncio.FIRST_EXCEPTION)
        crowd.counts.clear()
        began = time.monotonic()
        print("ready", flush=True)
        await asyncio.wait([end, *tasks], return_when=asyncio.FIRST_COMPLETED)
        seconds = time.monotonic() - began
        for task in tasks:
            if task.done():  # nothing ends by itself
                task.result()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return {name: count / seconds for name, count in crowd.counts.items()}


def main() -> None:
    """Raises whatever a request has failed with."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[*CROWDS])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--key", default="")
    given = parser.parse_args()
    print(json.dumps(asyncio.run(run(given.name, given.url, given.key))), flush=True)


if __name__ == "__main__":
    main()
