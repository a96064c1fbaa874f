"""Files and batches by the openai package: their life, their errors, and whose they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from batches import lines_of, requests, start, upload, wait
from gateways import EMBEDDER, GENERATOR, Served, start_gateway

EMBED, CHAT = "/v1/embeddings", "/v1/chat/completions"
HELLO: Any = {"model": GENERATOR, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}


@pytest.fixture(scope="module")
def strict(served: Served) -> Iterator[openai.OpenAI]:
    """A client that checks every answer."""
    options: Any = {"max_retries": 0, "_strict_response_validation": True}
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", **options) as client:
        yield client


def test_a_batch_of_embeddings(strict: openai.OpenAI) -> None:
    texts = ["a", "b", "", "d"]
    bodies: list[Any] = [{"model": EMBEDDER, "input": text} for text in texts]
    bodies.append({"model": EMBEDDER, "input": "e", "foo": 1})
    begun = start(strict, EMBED, requests(EMBED, bodies), metadata={"for": "test"})
    assert begun.status == "validating" and begun.expires_at == begun.created_at + 86_400
    batch = wait(strict, begun.id)
    assert batch.status == "completed" and batch.errors is None and batch.model == EMBEDDER
    assert batch.metadata == {"for": "test"} and batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 5, "completed": 3, "failed": 2}
    times = (batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert all(time is not None and time >= batch.created_at for time in times)
    found = {line["custom_id"]: line for line in lines_of(strict, batch.output_file_id)}
    assert found.keys() == {"r0", "r1", "r3"}
    direct = strict.embeddings.create(model=EMBEDDER, input="a", encoding_format="float")
    answer = found["r0"]["response"]
    assert found["r0"]["error"] is None and answer["status_code"] == 200 and answer["request_id"]
    assert answer["body"]["data"][0]["embedding"] == pytest.approx(
        direct.data[0].embedding, abs=1e-6
    )
    assert batch.usage is not None and batch.usage.input_tokens == 9
    failed = {line["custom_id"]: line["response"] for line in
              lines_of(strict, batch.error_file_id)}  # fmt: skip
    assert failed.keys() == {"r2", "r4"}
    assert failed["r2"]["status_code"] == 400
    assert failed["r4"]["body"]["error"]["code"] == "unknown_parameter"


@pytest.mark.parametrize(
    ("url", "body"),
    [
        (CHAT, {**HELLO, "n": 2}),
        ("/v1/completions", {"model": GENERATOR, "prompt": "One", "max_tokens": 3}),
        ("/v1/responses", {"model": GENERATOR, "input": "Hi", "max_output_tokens": 3}),
    ],
)
def test_generators(strict: openai.OpenAI, url: str, body: Any) -> None:
    batch = wait(strict, start(strict, url, requests(url, [body])).id)
    (line,) = lines_of(strict, batch.output_file_id)
    assert batch.error_file_id is None and batch.usage is not None
    usage = line["response"]["body"]["usage"]
    assert batch.usage.total_tokens == usage["total_tokens"] > 0
    assert batch.usage.output_tokens >= 3
    if url == "/v1/responses":
        with pytest.raises(openai.NotFoundError):
            strict.responses.retrieve(line["response"]["body"]["id"])


def test_the_model_of_the_path_answers(served: Served) -> None:
    url = f"{served.model_url(EMBEDDER)}/v1"
    with openai.OpenAI(base_url=url, api_key="unused", max_retries=0) as client:
        batch = wait(client, start(client, EMBED, requests(EMBED, [{"input": "a"}])).id)
        (line,) = lines_of(client, batch.output_file_id)
        assert line["response"]["body"]["model"] == EMBEDDER
        batch = wait(client, start(client, CHAT, requests(CHAT, [{"messages": []}])).id)
        assert batch.errors is not None and batch.errors.data is not None
        assert batch.errors.data[0].code == "unsupported_model"


def _raw(**changes: Any) -> bytes:
    line = {"custom_id": "a", "method": "POST", "url": EMBED, "body": {"input": "a"}}
    return json.dumps({name: value for name, value in {**line, **changes}.items()
                       if value is not ...}).encode()  # fmt: skip


NESTED = b'{"a":' * 600 + b"1" + b"}" * 600
WRONG: dict[str, tuple[bytes, list[tuple[str, int | None, str | None]]]] = {
    "empty": (b"", [("empty_file", None, None)]),
    "blank": (b"\n \r\n", [("empty_file", None, None)]),
    "no JSON": (_raw() + b"\n\n{\n" + b"\xff\xfe\x00\n" + b"[]",
                [("invalid_json_line", line, None) for line in (3, 4, 5)]),
    "a key twice": (_raw()[:-1] + b',"url":"a"}', [("invalid_json_line", 1, "url")]),
    "missing": (_raw(custom_id=...) + b"\n" + _raw(body=...),
                [("missing_required_parameter", 1, "custom_id"),
                 ("missing_required_parameter", 2, "body")]),
    "types": (_raw(custom_id=1) + b"\n" + _raw(body=[]) + b"\n" + _raw(method="GET"),
              [("invalid_type", 1, "custom_id"), ("invalid_type", 2, "body"),
               ("invalid_value", 3, "method")]),
    "unknown": (_raw(foo=1), [("unknown_parameter", 1, "foo")]),
    "twice": (_raw() + b"\n" + _raw(), [("duplicate_custom_id", 2, "custom_id")]),
    "another url": (_raw(url="/v1/chat/completions"), [("invalid_url", 1, "url")]),
    "a stream": (_raw(body={"stream": True}), [("invalid_value", 1, "body.stream")]),
    "two models": (_raw() + b"\n" + _raw(custom_id="b", body={"model": "b"}),
                   [("mismatched_model", 2, "body.model")]),
    "no such model": (_raw(body={"model": "b"}), [("model_not_found", 1, "model")]),
    "deep": (_raw()[:-1].replace(b'{"input": "a"}', NESTED) + b"}", [("invalid_value", 1, "body")]),
    "long": (_raw(body={"input": "a" * 2_100_000}), [("request_too_large", 1, None)]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_file(client: openai.OpenAI, name: str) -> None:
    lines, expected = WRONG[name]
    batch = wait(client, start(client, EMBED, lines).id)
    assert batch.status == "failed" and batch.failed_at and batch.output_file_id is None
    assert batch.errors is not None and batch.errors.data is not None
    found = [(one.code, one.line, one.param) for one in batch.errors.data]
    assert found == expected, batch.errors.data
    assert all(one.message for one in batch.errors.data)


def test_files(strict: openai.OpenAI) -> None:
    file = strict.files.create(
        file=("../ä b.jsonl", b"\x00\xff\r\n--x\r\n" * 1000), purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )  # fmt: skip
    assert file.bytes == 9000 and file.filename == "../ä b.jsonl" and file.status == "processed"
    assert file.expires_at == file.created_at + 3600
    assert strict.files.retrieve(file.id) == file
    assert strict.files.content(file.id).read() == b"\x00\xff\r\n--x\r\n" * 1000
    others = [upload(strict, b"a"), upload(strict, b"b")]
    ids = [one.id for one in strict.files.list(purpose="batch", limit=2)]
    assert ids[:3] == [others[1], others[0], file.id]
    assert [one.id for one in strict.files.list(order="asc", after=file.id)] == others
    assert strict.files.delete(file.id).deleted
    for call in (strict.files.retrieve, strict.files.delete, strict.files.content):
        with pytest.raises(openai.NotFoundError):
            call(file.id)
    with pytest.raises(openai.BadRequestError, match="after"):
        strict.files.list(after=file.id)


FORM: Any = {"data": {"purpose": "batch"}, "files": {"file": ("a", b"a")}}
BROKEN = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\na'
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no form": ({"json": {"purpose": "batch"}}, "form"),
    "no file": ({"data": {"purpose": "batch"}, "files": {"a": ("a", b"")}}, "file"),
    "purpose": ({**FORM, "data": {"purpose": "fine-tune"}}, "purpose"),
    "no purpose": ({"files": FORM["files"]}, "purpose"),
    "unknown": ({**FORM, "data": {"purpose": "batch", "foo": "1"}}, "foo"),
    "soon": ({**FORM, "data": {"purpose": "batch", "expires_after[anchor]": "created_at",
                               "expires_after[seconds]": "1"}}, "expires_after.seconds"),
    "cut off": ({"content": BROKEN, "headers": {"content-type": "multipart/form-data; boundary=x"}},
                "cut off"),
    "broken": ({"content": b"hello", "headers": {"content-type":
               "multipart/form-data; boundary=x"}}, "form"),
    "compressed": ({**FORM, "headers": {"content-encoding": "gzip"}}, "content-encoding"),
    "no boundary": ({"content": b"", "headers": {"content-type": "multipart/form-data"}},
                    "boundary"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_forms_that_are_refused(http: httpx.Client, name: str) -> None:
    options, named = REFUSED[name]
    answer = http.post("/v1/files", **options)
    assert answer.status_code == 400 and named in answer.text, answer.text


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("files?limit=1&limit=2", "limit"), ("batches?limit=1&limit=1", "limit"),
        ("files?purpose=zz", "purpose"),
    ],
)  # fmt: skip
def test_queries_that_are_refused(http: httpx.Client, query: str, named: str) -> None:
    answer = http.get(f"/v1/{query}")
    assert answer.status_code == 400 and answer.json()["error"]["param"] == named, answer.text


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"input_file_id": "file-../../x"}, "input_file_id"),
        ({"endpoint": "/v1/files"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"a": "b" * 513}}, "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at"}}, "output_expires_after.seconds"),
        ({"foo": 1}, "foo"),
    ],
)
def test_batches_that_are_refused(client: openai.OpenAI, changes: Any, named: str) -> None:
    asked: Any = {"endpoint": EMBED, "completion_window": "24h"}
    asked["input_file_id"] = upload(client, b"a")
    with pytest.raises(openai.APIStatusError) as caught:
        client.batches.create(**asked, extra_body=changes)
    assert caught.value.status_code == (404 if named == "input_file_id" else 400)
    assert caught.value.param == named


def test_cancel(strict: openai.OpenAI) -> None:
    long = {**HELLO, "max_tokens": 8, "ignore_eos": True}
    lines = requests(CHAT, [HELLO, *[long] * 200])
    other = start(strict, CHAT, lines)
    batch = start(strict, CHAT, lines)
    while (wait(strict, batch.id, "in_progress").request_counts or 0).completed == 0:  # type: ignore[union-attr]
        pass
    assert strict.batches.cancel(batch.id).status == "cancelling"
    assert strict.batches.cancel(other.id).cancelling_at
    batch = wait(strict, batch.id)
    assert batch.status == "cancelled" and batch.cancelled_at and batch.request_counts
    answered = {line["custom_id"] for line in lines_of(strict, batch.output_file_id)}
    assert 0 < len(answered) == batch.request_counts.completed < 201
    assert wait(strict, other.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="status 'cancelled'"):
        strict.batches.cancel(batch.id)
    listed = [one.id for one in strict.batches.list(limit=1)]
    assert listed[:2] == [batch.id, other.id]


def test_each_key_has_its_own(served: Served, tmp_path: Path) -> None:
    """And limits, and what is done without a folder, or with that of another gateway."""
    folder = {"batch_folder": str(tmp_path / "kept")}
    small = {"max_batch_bytes": "9000", "max_batch_file_bytes": "6000", "max_batch_files": "4"}
    server = served.server.grpc_url
    keyed = start_gateway(server, api_key="one,zw\u00f6i", **folder, **small)
    second, without = start_gateway(server, **folder), start_gateway(server)
    try:
        for gateway in (keyed, second, without):
            gateway.wait_ready()
        with (
            openai.OpenAI(base_url=f"{keyed.options.url}/v1", api_key="one", max_retries=0) as one,
            httpx.Client(base_url=keyed.options.url,
                         headers={"x-api-key": "zw\u00f6i".encode()}) as two,
        ):  # fmt: skip
            # Its lines are asked with the key of the one who has sent them.
            batch = wait(one, start(one, EMBED, requests(EMBED, [{"input": "a"}])).id)
            assert batch.status == "completed" and batch.output_file_id
            for path in (f"files/{batch.input_file_id}", f"files/{batch.output_file_id}/content",
                         f"batches/{batch.id}"):  # fmt: skip
                assert two.get(f"/v1/{path}").status_code == 404
            assert two.post(f"/v1/batches/{batch.id}/cancel").status_code == 404
            assert (
                two.get("/v1/files").json()["data"] == two.get("/v1/batches").json()["data"] == []
            )
            asked = {"input_file_id": batch.input_file_id, "endpoint": EMBED,
                     "completion_window": "24h"}  # fmt: skip
            assert two.post("/v1/batches", json=asked).status_code == 404
            one.files.delete(batch.output_file_id)
            with pytest.raises(openai.APIStatusError, match="6000 bytes") as caught:
                upload(one, b"a" * 6001)
            assert caught.value.status_code == 413
            upload(one, b"a" * 6000)
            with pytest.raises(openai.RateLimitError, match="max_batch_bytes is 9000"):
                upload(one, b"a" * 2900)
            with pytest.raises(openai.APIStatusError, match="limit") as caught:
                upload(one, b"a" * 90_000)
            assert caught.value.status_code == 413
            # A finished batch makes room for the next one, the key's own first.
            theirs = two.post("/v1/files", **FORM).json()["id"]
            other = two.post("/v1/batches", json={**asked, "input_file_id": theirs}).json()["id"]
            assert two.delete(f"/v1/files/{theirs}").status_code == 200
            begun = [batch.id]
            for _ in range(4):
                begun.append(one.batches.create(**asked).id)
                assert wait(one, begun[-1]).status == "completed"
                one.files.delete(wait(one, begun[-1]).output_file_id or "")
            assert [known.id for known in one.batches.list()] == begun[:1:-1]
            assert two.get(f"/v1/batches/{other}").json()["status"] == "failed"
            upload(one, b"a")
            upload(one, b"a")
            with pytest.raises(openai.RateLimitError, match="max_batch_files is 4") as full:
                upload(one, b"a")
            headers = full.value.response.headers
            assert "retry-after" not in headers and headers["x-should-retry"] == "false"
        refused = httpx.get(f"{second.options.url}/v1/files")
        assert refused.status_code == 503 and "another gateway" in refused.text
        refused = httpx.get(f"{without.options.url}/v1/batches")
        assert refused.status_code == 404 and "batch_folder" in refused.text
        # The folder goes to whoever asks next.
        keyed.stop()
        assert httpx.get(f"{second.options.url}/v1/files").json()["data"] == []
    finally:
        for gateway in (keyed, second, without):
            gateway.stop()
