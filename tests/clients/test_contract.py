"""Bodies that nobody means: whatever comes, the gateway never fails by itself (no status 5xx)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from gateways import EMBEDDER, GENERATOR, Served
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schemas import closed, response_of

from atoll_client.gateway.core.web import LINES
from atoll_client.gateway.documentation import describe, example_answers
from atoll_client.gateway.kserve.routes import CLOSED
from atoll_client.gateway.routes import ROUTES

# KServe's routes, whose bodies are tensors, and administrators' have tests of their own.
OURS = [r for r in ROUTES if r.dialect != "kserve" and r.answers and not r.admin]
POSTS = [route for route in OURS if route.method == "POST" and route.kinds and not route.is_upload]
FIELDS = sorted(
    {name for route in POSTS for name in (route.body.model_fields if route.body else ())}
    | {"inputs", "parameters", "messages", "query", "texts", "documents", "prompt"}
)
_SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["user", "a b", "\ud800", "json_schema", "Left"])
)  # fmt: skip
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*FIELDS, "role", "content", "type"]), inner, max_size=3)
    ),
    max_leaves=6,
)
# Never a long generation: what is tested is how bodies are read.
_SHORT = {"max_tokens": 1, "max_completion_tokens": 1, "n": 1, "best_of": 1}
# Routes that refuse every request, and files.
UNDESCRIBED = {CLOSED, "/assets/{file}"}


def _changed(route: Any) -> st.SearchStrategy[dict[str, Any]]:
    """The route's example with some fields replaced or added."""
    fields, short = FIELDS, _SHORT
    if route.dialect == "anthropic":
        # Others are refused before anything is read.
        fields = list(route.body.model_fields)
        short = {name: value for name, value in _SHORT.items() if name in fields}
    return st.dictionaries(st.sampled_from(fields), _VALUES, max_size=3).map(
        lambda changes: {**route.example, **changes, **short}
    )


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[httpx.Client]:
    """A client that would not wait for a generation that nobody bounded."""
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("route", POSTS, ids=[route.path for route in POSTS])
def test_no_body_makes_the_gateway_fail(http: httpx.Client, route: Any) -> None:
    @settings(
        max_examples=8, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(_changed(route))
    def check(body: dict[str, Any]) -> None:
        parameters = body.get("parameters")
        if isinstance(parameters, dict) or route.path.startswith("/generate"):
            body["parameters"] = {**(parameters if isinstance(parameters, dict) else {})}
            body["parameters"]["max_new_tokens"] = 1
        if route.path in ("/api/chat", "/api/generate"):
            options = body.get("options")
            body["options"] = {**(options if isinstance(options, dict) else {}), "num_predict": 1}
        # Python's JSON also holds lone surrogates, integers of any size, and NaN.
        answer = http.post(route.path, content=json.dumps(body))
        assert answer.status_code < 500, (body, answer.text)
        # What looks like a success is one.
        assert answer.status_code >= 400 or answer.content

    check()


def _described(schema: Any) -> bool:
    """Whether a schema says anything of a value."""
    return bool(schema.keys() & {"$ref", "anyOf", "type", "items"})


def test_the_description_is_complete(http: httpx.Client) -> None:
    """No operation had a schema for its answer, and four of them none for what they take."""
    description = http.get("/openapi.json").json()
    assert http.get("/api-doc/openapi.json").json() == description
    names = [one["operationId"] for path in description["paths"].values() for one in path.values()]
    assert len({*names}) == len(names) and all(re.fullmatch("[a-z][a-z0-9_]*", n) for n in names)
    for route in [route for route in ROUTES if route.path not in UNDESCRIBED and route.answers]:
        operation = description["paths"][route.path][route.method.lower()]
        assert operation["summary"]
        assert ("requestBody" in operation) == bool(route.kinds)
        parameters = operation.get("parameters", ())
        assert all(one["schema"] for one in parameters)
        named = [one["name"] for one in parameters if one["in"] == "path"]
        assert named == re.findall(r"{(\w+)}", route.path)
        answers = operation["responses"]["200"]
        contents = [*answers.get("content", {}).values()]
        if "requestBody" in operation:
            contents += operation["requestBody"]["content"].values()
            refusals = [status for status in operation["responses"] if status != "200"]
            found = [response_of(description, operation, status) for status in refusals]
            contents += [one["content"]["application/json"] for one in found]
        assert answers["content"]
        assert all(_described(content["schema"]) for content in contents), route.path
    assert not UNDESCRIBED & {*description["paths"]}


def test_examples_of_answers_are_as_described() -> None:
    description = describe(ROUTES)
    components = closed(description["components"])
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    }
    assert example_answers().keys() <= operations.keys()
    answers = [one["responses"]["200"]["content"] for one in operations.values()]
    contents = [content for answer in answers for content in answer.values()]
    examples = [(content, content["example"]) for content in contents if "example" in content]
    for refusal in components["responses"].values():
        content = refusal["content"]["application/json"]
        examples += [(content, one["value"]) for one in content["examples"].values()]
    for content, example in examples:
        _validator(components, closed(content)).validate(example)


def test_the_description_is_valid() -> None:
    package = pytest.importorskip(
        "openapi_spec_validator",
        reason="openapi-spec-validator is not installed: see requirements/clients.txt",
    )
    package.OpenAPIV31SpecValidator(describe(ROUTES)).validate()


def _validator(components: Any, content: Any) -> Any:
    """Of a media type's schema, which refers to those of the whole description."""
    return Draft202012Validator({**content["schema"], "components": components})


def _check_answer(description: Any, operation: Any, answer: httpx.Response) -> None:
    """That an answer is what the description says, without a field more."""
    components = description["components"]
    contents = response_of(description, operation, answer.status_code)["content"]
    kind = answer.headers["content-type"].split(";")[0]
    validator = _validator(closed(components), closed(contents[kind]))
    if kind == "application/json":
        validator.validate(answer.json())
    if kind == LINES:
        for line in answer.text.splitlines():
            validator.validate(json.loads(line))
    if kind == "text/event-stream":
        lines = answer.text.splitlines()
        events = [line[5:].strip() for line in lines if line.startswith("data:")]
        assert events
        for event in events:
            if event != "[DONE]":
                validator.validate(json.loads(event))


def test_answers_and_examples_are_as_described(http: httpx.Client, scoring: Served) -> None:
    description = http.get("/openapi.json").json()
    paths, components = description["paths"], description["components"]
    more: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {"stream": True, "stream_options": {"include_usage": True}}),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 2}),
        ("/v1/completions", {"stream": True, "logprobs": 1}),
        ("/v1/embeddings", {"encoding_format": "base64"}), ("/v1/embeddings", {"input": [-1]}),
        ("/embed", {"inputs": ""}), ("/embed", {"inputs": ["a"] * 33}),
        ("/rerank", {"return_text": True}), ("/predict", {"inputs": [["a"], ["a", "b"]]}),
        ("/tokenize", {"model": GENERATOR}), ("/generate", {"parameters": {"details": True}}),
        ("/", {"stream": True, "parameters": {"max_new_tokens": 2}}),
        ("/v1/rerank", {"return_documents": True}),
    ]  # fmt: skip
    for path, changes in [*((route.path, {}) for route in POSTS), *more]:
        operation = paths[path]["post"]
        content = operation["requestBody"]["content"]["application/json"]
        body = {**content["example"], **changes}
        if not changes:
            _validator(components, content).validate(body)
        if "/completions" in path:
            body["max_tokens"] = 3
        if path in ("/api/chat", "/api/generate"):
            body["options"] = {"num_predict": 2}
        if path.startswith("/generate"):
            body["parameters"] = {**body["parameters"], "max_new_tokens": 2}
        answer = http.post(path, json=body)
        if answer.status_code == 424 or "no model here" in answer.text:
            answer = httpx.post(scoring.url + path, json=body, timeout=60)
        _check_answer(description, operation, answer)
    for route in OURS:
        if route.method == "GET" and route.path not in UNDESCRIBED:
            path = route.path.replace("{model}", EMBEDDER)
            _check_answer(description, paths[route.path]["get"], http.get(path))


# A model of each kind; the rest of what a route takes is its example.
KSERVE = [
    (route, route.path.replace("{model}", model).replace("{version}", "1"))
    for route in ROUTES
    if route.dialect == "kserve" and route.answers
    for model in ([EMBEDDER, GENERATOR] if "{model}" in route.path else [""])
]


@pytest.mark.parametrize(("route", "path"), KSERVE, ids=[f"{r.method} {p}" for r, p in KSERVE])
def test_kserve_answers_as_described(http: httpx.Client, route: Any, path: str) -> None:
    """None of these operations said what it takes and answers, or how its errors look."""
    description = http.get("/openapi.json").json()
    operation, components = (
        description["paths"][route.path][route.method.lower()], description["components"]
    )  # fmt: skip
    example = route.example
    if example is not None:
        content = operation["requestBody"]["content"]["application/json"]
        _validator(components, content).validate(example)
    if "/generate" in path and EMBEDDER in path:
        example = {"text_input": example["text_input"]}
    answer = http.request(route.method, path, json=example)
    # Generators answer over /generate alone.
    is_refused = GENERATOR in path and path.endswith("/infer")
    assert answer.status_code == (501 if is_refused else 200), answer.text
    _check_answer(description, operation, answer)
    if "{model}" in route.path:
        broken = http.request(route.method, path.replace("/models/", "/models/no-"), json=example)
        assert broken.status_code in (400, 404), broken.text
        _check_answer(description, operation, broken)
    if route.path.endswith("/infer") and EMBEDDER in path:
        binary = {**example, "parameters": {"binary_data_output": True}}
        kind = http.post(path, json=binary).headers["content-type"]
        assert kind in operation["responses"]["200"]["content"] and "octet" in kind


def test_every_example_is_answered(http: httpx.Client, scoring: Served) -> None:
    """As published: what an operation takes is its example, its parameters are theirs."""
    (upload,) = (route for route in ROUTES if route.is_upload)
    file = {
        "files": {"file": ("lines.jsonl", upload.example["file"])}, "data": {"purpose": "batch"},
    }  # fmt: skip

    def made(name: str) -> Any:
        """Something new of this kind."""
        if name == "file_id":
            return http.post(upload.path, **file).json()["id"]
        route = {"batch_id": "/v1/batches", "response_id": "/v1/responses"}[name]
        (example,) = (one.example for one in POSTS if one.path == route)
        return http.post(route, json={**example, **changes(route)}).json()["id"]

    def changes(path: str) -> dict[str, Any]:
        return {"input_file_id": made("file_id")} if path == "/v1/batches" else {}

    description = http.get("/openapi.json").json()
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            if operation.get("security") == [{"admin": []}]:
                continue  # needs a launcher
            named = {
                one["name"]: one["example"] if "example" in one else made(one["name"])
                for one in operation.get("parameters", ())
                if one["in"] == "path"
            }
            body: dict[str, Any] = {}
            if "requestBody" in operation:
                first = next(iter(operation["requestBody"]["content"].values()))
                is_form = path == upload.path
                body = file if is_form else {"json": {**first["example"], **changes(path)}}
            answer = http.request(method, path.format(**named), **body)
            if answer.status_code == 424 or "no model here can" in answer.text:
                # No such model here; the other server has one.
                answer = httpx.request(method, scoring.url + path, timeout=60, **body)
            assert answer.is_success, (method, path, answer.text)


def test_optional_fields_may_be_null() -> None:
    """The description forbade the nulls that clients send for fields which they do not set."""
    description = describe(ROUTES)
    for route in [route for route in POSTS if route.body is not None]:
        content = description["paths"][route.path]["post"]["requestBody"]["content"]
        schema = _validator(description["components"], content["application/json"])
        fields = {field.alias or name: field for name, field in route.body.model_fields.items()}
        body = {**dict.fromkeys(fields), **route.example}
        schema.validate(body)
        for name in (name for name, field in fields.items() if field.is_required()):
            assert not schema.is_valid({**body, name: None}), (route.path, name)
    form = description["components"]["schemas"]["TranscriptionBodyForm"]["properties"]
    assert "null" not in json.dumps(form) and "keywords" not in form
