"""Decoders that embed, and a model for images, behind the gateway, beside transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from gateways import Served
from tiny.embedders import PUBLISHED, write_embedder
from tiny.towers import Towers, data_uri, encoded, picture, write_towers
from tokenizers import Tokenizer
from typer.testing import CliRunner
from unusual_encoders import (
    LONG,
    encoders_served,
    post,
    refused,
)

from atoll.cli.app import app
from atoll.errors import ConfigError
from atoll_client import Client
from atoll_client.embeddings import images_per_request
from atoll_client.errors import UnsupportedModel, ValidationError

FILES = [encoded(picture(41, 50)), encoded(picture(64, 33, 1), "JPEG")]
URIS = [data_uri(FILES[0]), data_uri(FILES[1], "jpeg")]


@pytest.fixture(scope="module")
def decoding(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Embedders that are decoders, by name: the folder, and ids to vectors by transformers."""
    base = tmp_path_factory.mktemp("decoders")
    names = ("embedding-gemma", "qwen3-embedding")
    return {name: (base / name, write_embedder(name, base / name)) for name in names}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Towers]:
    folder = tmp_path_factory.mktemp("towers") / "clip"
    return folder, write_towers("clip", folder)


@pytest.fixture(scope="module")
def served(decoding: dict[str, tuple[Path, Any]], clip: tuple[Path, Towers]) -> Iterator[Served]:
    folders = {name: folder for name, (folder, _) in decoding.items()}
    with encoders_served({**folders, "clip": clip[0]}) as found:
        yield found


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60.0) as client:
        yield client


@pytest.mark.parametrize("name", ["embedding-gemma", "qwen3-embedding"])
def test_decoders_embed_on_every_route(
    name: str, http: httpx.Client, served: Served, decoding: dict[str, tuple[Path, Any]]
) -> None:
    """A prompt by its name, fewer dimensions, and a text that is cut but for what frames it."""
    folder, vector = decoding[name]
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    core.enable_truncation(64)

    def expected(text: str, size: int = 48) -> Any:
        found = vector(core.encode(text).ids)[0, :size].numpy()
        return found / np.linalg.norm(found)

    query = PUBLISHED[name].prompts["query"] + "coral"
    body = {"inputs": ["coral"], "prompt_name": "query"}
    np.testing.assert_allclose(post(http, f"/{name}/embed", body)[0], expected(query), atol=1e-5)
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    found = client.embeddings.create(model=name, input=["coral", LONG], dimensions=20)
    for one, text in zip(found.data, ("coral", LONG), strict=True):
        np.testing.assert_allclose(one.embedding, expected(text, 20), atol=1e-5)
    for address in (
        served.server.grpc_url,
        served.server.http_url,
        served.grpc_address,
        served.url,
    ):
        with Client(address) as own:
            vectors = own.embed(["coral", LONG], model=name, prompt_name="query")
        both = np.stack([expected(query), expected(PUBLISHED[name].prompts["query"] + LONG)])
        np.testing.assert_allclose(vectors, both, atol=1e-5)


def _unit(rows: list[Any]) -> Any:
    found = np.stack(rows)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def expected(clip: tuple[Path, Towers]) -> Any:
    """Vectors of a text and two images, (3, width)."""
    folder, towers = clip
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("coral").ids
    return _unit([towers.text(ids).numpy(), *(towers.image(one).numpy() for one in FILES)])


def _part(uri: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": uri}}


def test_images_on_every_route(http: httpx.Client, expected: Any) -> None:
    """As infinity, vLLM and Cohere take them, and as a tensor in JSON."""
    body: dict[str, Any] = {"model": "clip", "input": URIS, "modality": "image"}
    found = post(http, "/v1/embeddings", body)
    vectors = [one["embedding"] for one in found["data"]]
    np.testing.assert_allclose(vectors, expected[1:], atol=1e-5)
    assert found["usage"]["prompt_tokens"] == 2 * 17
    (one,) = post(http, "/v1/embeddings", {**body, "input": URIS[0], "dimensions": 5})["data"]
    np.testing.assert_allclose(one["embedding"], _unit([expected[1, :5]])[0], atol=1e-5)
    for content, row in (
        ([_part(URIS[1])], 2), ("coral", 0), ([{"type": "text", "text": "coral"}], 0),
    ):  # fmt: skip
        message = {"role": "user", "content": content}
        (one,) = post(http, "/clip/v1/embeddings", {"messages": [message]})["data"]
        np.testing.assert_allclose(one["embedding"], expected[row], atol=1e-5)
    cohere = {"model": "clip", "images": URIS, "input_type": "image"}
    found = post(http, "/v2/embed", cohere)
    np.testing.assert_allclose(found["embeddings"]["float"], expected[1:], atol=1e-5)
    mixed = [{"content": [_part(URIS[1])]}, {"content": [{"type": "text", "text": "coral"}]},
             {"content": [_part(URIS[0])]}]  # fmt: skip
    found = post(http, "/v2/embed", {"model": "clip", "inputs": mixed})
    np.testing.assert_allclose(found["embeddings"]["float"], expected[[2, 0, 1]], atol=1e-5)
    tensor = {"name": "image", "shape": [2, 1], "datatype": "BYTES", "data": URIS}
    (output, *_) = post(http, "/v2/models/clip/infer", {"inputs": [tensor]})["outputs"]
    vectors = np.reshape(output["data"], output["shape"])
    np.testing.assert_allclose(vectors, expected[1:], atol=1e-5)


def test_refused_images(http: httpx.Client) -> None:
    page, path = "https://example.com/a.png", "/v1/embeddings"
    one: dict[str, Any] = {"model": "clip", "modality": "image"}
    refused(http, path, {**one, "input": [URIS[0], page]}, 400, "`input[1]`", "never fetched")
    refused(http, path, {**one, "input": [[3, 4]]}, 400, "input", "token ids")
    refused(http, path, {**one, "input": []}, 400, "input", "empty")
    refused(http, path, {**one, "input": URIS, "prompt_name": "a"}, 400, "prompt_name")
    refused(http, path, {**one, "input": URIS, "model": "embedding-gemma"}, 400, "texts alone")
    cuts: tuple[tuple[str, Any], ...] = (
        ("truncate", True), ("truncate", "END"), ("truncate_prompt_tokens", -1),
        ("truncation_direction", "Left"), ("truncation_side", "right"),
    )  # fmt: skip
    for name, value in cuts:
        refused(http, path, {**one, "input": URIS, name: value}, 400, f"`{name}`", "images alone")
    # What happens to images anyway.
    post(http, path, {**one, "input": URIS, "truncate": False, "truncation_side": None})
    refused(http, path, {"model": "clip", "input": "a", "modality": "audio"}, 400, "modality")
    refused(http, path, {"model": "clip"}, 400, "`input`: Field required")
    both = [_part(URIS[0]), {"type": "text", "text": "a"}]
    messages = [{"role": "user", "content": both}]
    refused(http, path, {"model": "clip", "messages": messages}, 400, "messages", "2 parts")
    refused(http, path, {"model": "clip", "messages": messages, "input": "a"}, 400, "`input`")
    text: dict[str, Any] = {"messages": [{"role": "user", "content": "a"}]}
    refused(http, path, {**text, "model": "embedding-gemma"}, 400, "messages", "texts and images")
    refused(http, path, {**text, "model": "clip", "modality": "image"}, 400, "modality")
    refused(http, path, {**text, "model": "clip", "prompt_name": "a"}, 400, "`prompt_name`", "none")
    part = {**_part(URIS[0]), "text": "a"}
    messages = [{"role": "user", "content": [part]}]
    refused(http, path, {"model": "clip", "messages": messages}, 400, "a text and an image_url")
    one = {"model": "clip"}
    start = {**one, "images": URIS, "truncate": "START"}
    refused(http, "/v2/embed", start, 400, "`truncate`", "images alone")
    refused(http, "/v2/embed", {**one, "images": [URIS[0], page]}, 400, "`images[1]`")
    refused(http, "/v2/embed", {**one, "inputs": [{"content": both}]}, 400, "inputs[0]")
    inputs = [{"content": [{"type": "text", "text": "a"}]}, {"content": [_part(page)]}]
    refused(http, "/v2/embed", {**one, "inputs": inputs}, 400, "`inputs[1]`", "never fetched")
    refused(http, "/v2/embed", {**one, "texts": ["a"], "images": URIS}, 400, "images", "texts")
    refused(http, "/v2/embed", {**one, "texts": ["a"], "input_type": "image"}, 400, "input_type")


def test_texts_of_parts_that_are_too_long(http: httpx.Client) -> None:
    """As texts of `input` and `texts` are; the code was invalid_value."""
    text = {"content": [{"type": "text", "text": LONG}]}
    inputs = [{"content": [_part(URIS[0])]}, text]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/embeddings": {"messages": [{"role": "user", **text}], "truncate": False},
        "/v2/embed": {"inputs": inputs, "truncate": "NONE"},
    }
    for path, body in bodies.items():
        error = refused(http, path, {"model": "clip", **body}, 400, "must have less than")["error"]
        assert error["code"] == "context_length_exceeded" and error["param"] in body, error


def test_images_by_the_client_and_the_command(
    served: Served, expected: Any, tmp_path: Path
) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(FILES[1])
    for address in (
        served.server.grpc_url,
        served.server.http_url,
        served.grpc_address,
        served.url,
    ):
        with Client(address) as own:
            vectors = own.embed_images([URIS[0], file], "clip")
            np.testing.assert_allclose(vectors, expected[1:], atol=1e-5)
            np.testing.assert_allclose(own.embed_images(FILES[0], "clip"), expected[1], atol=1e-5)
            np.testing.assert_allclose(own.embed("coral", "clip"), expected[0], atol=1e-5)
            assert own.embed_images([], "clip").shape == (0, 24)
            info = next(model for model in own.models() if model.name == "clip")
            assert images_per_request(info, [b" " * 25_000_000, *FILES]) == 2
            with pytest.raises(UnsupportedModel, match="texts alone"):
                own.embed_images(FILES, "embedding-gemma")
            for wrong in ("a.png", bytearray(FILES[0])):
                with pytest.raises(ValidationError, match="a data URI"):
                    own.embed_images([wrong], "clip")  # type: ignore[list-item]
            with pytest.raises(ValidationError, match=r"image\[1\] is damaged or cut off"):
                own.embed_images([FILES[0], FILES[0][:300]], "clip")
    asked = ["infer", "clip", "--image", str(file), "--text", "coral", "--json"]
    environment = {"ATOLL_URL": served.server.grpc_url}
    done = CliRunner().invoke(app, asked, catch_exceptions=False, env=environment)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["results"]
    assert [row.get("image", row.get("text")) for row in rows] == ["coral", str(file)]
    asked = ["infer", "clip", "--text", "coral", "--query", "a"]
    with pytest.raises(ConfigError, match="--query is 'a', .* it reads texts and --image$"):
        CliRunner().invoke(app, asked, catch_exceptions=False, env=environment)
    np.testing.assert_allclose([r["embedding"] for r in rows], expected[[0, 2]], atol=1e-5)
