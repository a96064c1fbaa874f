"""The embedder through a real server: equal to sentence-transformers, and clear about bad input."""

import json
import random
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from atoll.launcher import ServerProcess
from atoll.weights.files import resolve

MODEL = "all-minilm-l6-v2"
MODEL_ID = "sentence-transformers/all-MiniLM-L6-v2"
Vectors = npt.NDArray[np.float32]
_WORDS = ["an", "atoll", "is", "coral", "the", "环礁", "récif", "🏝", "disestablishment", ","]


def _texts(count: int, longest: int) -> list[str]:
    """Lengths from one word to more tokens than the model takes."""
    generator = random.Random(7)
    lengths = [1 + (longest - 1) * i // (count - 1) for i in range(count)]
    generator.shuffle(lengths)
    return [" ".join(generator.choices(_WORDS, k=length)) for length in lengths]


TEXTS = _texts(66, 300)


@pytest.fixture(scope="module")
def expected() -> Vectors:
    """What sentence-transformers makes of TEXTS, in float32."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(resolve(MODEL_ID)), device="cpu")
    found: Vectors = model.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    return found


def _tensor(module: Any, data: npt.NDArray[Any], kind: str = "BYTES") -> Any:
    tensor = module.InferInput("text_input", list(data.shape), kind)
    tensor.set_data_from_numpy(data)
    return tensor


def _rows(texts: Sequence[str | bytes]) -> npt.NDArray[np.object_]:
    encoded = [text.encode() if isinstance(text, str) else text for text in texts]
    return np.array(encoded, dtype=np.object_).reshape(-1, 1)


def _embed(client: Any, texts: Sequence[str | bytes], **parameters: Any) -> Vectors:
    module = http if isinstance(client, http.InferenceServerClient) else grpc
    result = client.infer(MODEL, [_tensor(module, _rows(texts))], parameters=parameters or None)
    found: Vectors = result.as_numpy("embedding")
    return found


@pytest.fixture(scope="module")
def client(embedded_server: ServerProcess) -> Any:
    return grpc.InferenceServerClient(embedded_server.grpc_url)


def _distance(ours: Vectors, expected: Vectors) -> float:
    return float(np.abs(ours - expected).max())


def test_all_at_once(client: Any, expected: Vectors) -> None:
    assert _distance(_embed(client, TEXTS), expected) <= 1e-5


def test_one_by_one(client: Any, expected: Vectors) -> None:
    ours = np.concatenate([_embed(client, [text]) for text in TEXTS])
    assert _distance(ours, expected) <= 1e-5


def test_in_parallel_keeps_the_order(client: Any, expected: Vectors) -> None:
    with ThreadPoolExecutor(16) as pool:
        parts = list(pool.map(lambda i: _embed(client, TEXTS[i : i + 3]), range(0, 66, 3)))
    assert _distance(np.concatenate(parts), expected) <= 1e-5


def test_http_with_binary_data(embedded_server: ServerProcess, expected: Vectors) -> None:
    url = embedded_server.http_url.removeprefix("http://")
    with http.InferenceServerClient(url) as client:
        assert _distance(_embed(client, TEXTS[:20]), expected[:20]) <= 1e-5


def test_http_with_json(embedded_server: ServerProcess, expected: Vectors) -> None:
    tensor = {"name": "text_input", "shape": [2, 1], "datatype": "BYTES", "data": TEXTS[:2]}
    answer = _post(embedded_server, {"inputs": [tensor]})
    outputs = {output["name"]: output for output in answer["outputs"]}
    ours = np.array(outputs["embedding"]["data"], dtype=np.float32).reshape(2, -1)
    assert _distance(ours, expected[:2]) <= 1e-5


def test_token_counts(client: Any) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(resolve(MODEL_ID) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    limit = json.loads((resolve(MODEL_ID) / "sentence_bert_config.json").read_text())
    counts = [min(len(tokenizer.encode(t).ids), limit["max_seq_length"]) for t in TEXTS[:9]]
    result = client.infer(MODEL, [_tensor(grpc, _rows(TEXTS[:9]))])
    assert result.as_numpy("num_input_tokens").reshape(-1).tolist() == counts


def test_normalize_and_dimensions(client: Any) -> None:
    raw = _embed(client, TEXTS[:1], normalize=False)
    unit = _embed(client, TEXTS[:1])
    assert abs(float(np.linalg.norm(raw)) - 1) > 0.01
    np.testing.assert_allclose(raw / np.linalg.norm(raw), unit, atol=1e-6)
    short = _embed(client, TEXTS[:1], dimensions=64)
    expected = raw[:, :64] / np.linalg.norm(raw[:, :64])
    np.testing.assert_allclose(short, expected, atol=1e-6)


BAD: list[tuple[Sequence[str | bytes], dict[str, Any], str]] = [
    ([""], {}, r"text_input\[0\] is empty|`inputs` cannot be empty"),
    (["fine", b"\xff\xfe"], {}, r"text_input\[1\] is not valid UTF-8"),
    (["word " * 1000], {"truncate": False}, r"tokens.*256|256.*tokens"),
    (["fine"], {"normalise": True}, "unknown parameter 'normalise'"),
    (["fine"], {"dimensions": 385}, "dimensions.*385.*384"),
    (["fine"], {"dimensions": 0}, "dimensions"),
    (["fine"], {"truncation_direction": "up"}, "truncation_direction.*'up'"),
    (["fine"], {"prompt_name": "query"}, "prompt_name|prompt"),
    (["fine"], {"normalize": "maybe"}, "normalize.*'maybe'"),
]


@pytest.mark.parametrize(("texts", "parameters", "message"), BAD, ids=[b[2] for b in BAD])
def test_bad_input_is_named(
    client: Any, texts: Sequence[str | bytes], parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        _embed(client, texts, **parameters)
    assert "INVALID_ARGUMENT" in str(caught.value.status())
    assert _embed(client, ["the next request works"]).shape == (1, 384)


def test_wrong_dtype_and_shape_are_named(client: Any) -> None:
    numbers = np.zeros((1, 1), dtype=np.int32)
    with pytest.raises(InferenceServerException, match="text_input"):
        client.infer(MODEL, [_tensor(grpc, numbers, "INT32")])
    with pytest.raises(InferenceServerException, match="text_input"):
        client.infer(MODEL, [_tensor(grpc, _rows(["a", "b"]).reshape(1, 2))])
    assert _embed(client, ["the next request works"]).shape == (1, 384)


def test_too_many_texts_are_refused(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="256"):
        _embed(client, ["a"] * 257)


def test_a_bad_request_fails_alone(client: Any, expected: Vectors) -> None:
    """Requests that Triton hands over in one batch are answered one by one."""

    def ask(i: int) -> Vectors | str:
        try:
            return _embed(client, [TEXTS[i]] if i % 4 else [b"\xff"])
        except InferenceServerException as error:
            return str(error)

    with ThreadPoolExecutor(16) as pool:
        for i, found in enumerate(pool.map(ask, range(64))):
            if i % 4:
                assert not isinstance(found, str) and _distance(found, expected[i : i + 1]) <= 1e-5
            else:
                assert isinstance(found, str) and "UTF-8" in found


def _post(server: ServerProcess, body: dict[str, Any]) -> Any:
    url = f"{server.http_url}/v2/models/{MODEL}/infer"
    with urllib.request.urlopen(url, json.dumps(body).encode()) as answer:
        return json.load(answer)


def test_errors_over_http_have_a_status(embedded_server: ServerProcess) -> None:
    tensor = {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": [""]}
    with pytest.raises(urllib.error.HTTPError) as caught:
        _post(embedded_server, {"inputs": [tensor]})
    assert caught.value.code == 400
    assert "empty" in json.load(caught.value)["error"]
