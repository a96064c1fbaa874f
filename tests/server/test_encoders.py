"""Every encoder task in one real server, over HTTP and gRPC, on tiny checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from queue import Queue
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import tritonclient.grpc as grpc
from encoder_fleet import Fleet, asker, started
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from tiny.checkpoint import write
from tiny.described_encoders import DESCRIBED
from tiny.encoders import MASKED, TRUNKS, JinaReference, classifiers, write_text_files
from tiny.foreign_encoders import write_foreign
from tiny.routed import write_dense, write_late, write_sparse
from tiny.static import WIDTH, write_static
from tokenizers import Tokenizer
from tritonclient.utils import InferenceServerException

from atoll.catalogue import entry_for, read_model, write_repository
from atoll.catalogue.pipelines import tokens

TEXTS = ["Hello", "A ring of coral", "x" * 40, "1"]
BY_NAME = {variant.name: variant for variant in TRUNKS}
NATIVE = ("bert", "roberta", "xlm-roberta", "camembert", "deberta", "electra", "albert")
# The last runs on transformers.
EMBEDDERS = (*NATIVE, "jina", *DESCRIBED, "convbert")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    root = tmp_path_factory.mktemp("encoders")
    references: dict[str, Any] = {}
    for name in NATIVE:
        references[name] = write(BY_NAME[name], root / name).model
        write_text_files(root / name, "mean", {"query": "Q:"})
    jina = references["jina"] = JinaReference(12)
    (root / "jina").mkdir()
    save_file(jina.tensors, root / "jina" / "model.safetensors")
    (root / "jina" / "config.json").write_text(json.dumps(jina.config))
    write_text_files(root / "jina", "mean")
    for name, kind in DESCRIBED.items():
        described = references[name] = kind()
        described.write(root / name)
        write_text_files(root / name, "mean")
    references["convbert"] = write_foreign("convbert", root / "convbert")
    write_text_files(root / "convbert", "mean")
    write_static(root / "static", "normalized", "0_StaticEmbedding")
    references["static"] = SentenceTransformer(str(root / "static"), device="cpu")
    references["routed"] = write_dense(root / "dense-parts", root / "routed")
    # Weights of words for documents alone.
    part = {"weight": torch.ones(1, 48) / 9, "bias": torch.ones(1)}
    torch.save(part, root / "routed" / "document_0_Transformer" / "sparse_linear.pt")
    references["routed-late"] = write_late(root / "late-parts", root / "routed-late")
    references["routed-sparse"] = write_sparse(root / "sparse-parts", root / "routed-sparse")
    references["splade"] = write(MASKED, root / "splade").model
    references["reranker"] = write(classifiers(1)[2], root / "reranker").model
    references["classifier"] = write(classifiers(3)[1], root / "classifier").model
    references["prompted"] = write(classifiers(1)[0], root / "prompted").model
    for name in ("splade", "reranker", "classifier", "prompted"):
        write_text_files(root / name)
    cross = {"model_type": "CrossEncoder", "prompts": {"q": "Q:"}, "default_prompt_name": "q"}
    (root / "prompted" / "config_sentence_transformers.json").write_text(json.dumps(cross))
    entries = []
    for name in references:
        task = "sparse" if name == "splade" else None
        detected = read_model(root / name, task=task)
        settings = {"max_client_batch_size": "40"} if name == "roberta" else None
        entries.append(entry_for(str(root / name), detected, name=name, settings=settings))
    write_repository([*entries, tokens("bert-tokens", str(root / "bert"))], root / "repository")
    tokenizer = Tokenizer.from_file(str(root / "bert" / "tokenizer.json"))
    with started(root / "repository") as server:
        yield Fleet(server, references, tokenizer)


@pytest.fixture(scope="module", params=["grpc", "http"])
def ask(request: pytest.FixtureRequest, fleet: Fleet) -> Any:
    return asker(fleet.server, request.param)


def _hidden(fleet: Fleet, name: str, text: str) -> torch.Tensor:
    ids, model = fleet.ids(text), fleet.references[name]
    with torch.inference_mode():
        if name in ("jina", *DESCRIBED):
            return model.hidden(ids).float()
        return model(torch.tensor([ids])).last_hidden_state[0]


def _unit(vector: torch.Tensor) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = (vector / vector.norm()).numpy()
    return found


@pytest.mark.parametrize("name", EMBEDDERS)
def test_embedders(fleet: Fleet, ask: Any, name: str) -> None:
    expected = np.stack([_unit(_hidden(fleet, name, text).mean(0)) for text in TEXTS])
    found = ask(name, {"text_input": TEXTS})
    np.testing.assert_allclose(found["embedding"], expected, atol=1e-5)
    assert found["num_input_tokens"].reshape(-1).tolist() == [len(fleet.ids(t)) for t in TEXTS]


def test_a_table_of_word_vectors(fleet: Fleet, ask: Any) -> None:
    """Without special tokens."""
    texts = [*TEXTS[:3], "ab"]
    found = ask("static", {"text_input": texts})
    np.testing.assert_allclose(
        found["embedding"], fleet.references["static"].encode(texts), atol=1e-5
    )
    assert found["num_input_tokens"].reshape(-1).tolist() == [5, 12, 40, 2]
    one = ask("static", {"text_input": texts[3:]}, return_token_embeddings=True, dimensions=4)
    assert one["token_embedding"].shape == (1, 2, WIDTH) and one["embedding"].shape == (1, 4)


@pytest.mark.parametrize("kind", ["query", "document", None])
def test_routes(fleet: Fleet, ask: Any, kind: str | None) -> None:
    """Texts of both kinds share a server; the files say what a text of no kind is."""
    model = fleet.references["routed"]
    named = {} if kind is None else {"input_type": kind}
    found = ask("routed", {"text_input": TEXTS}, **named)["embedding"]
    np.testing.assert_allclose(found, model.encode(TEXTS, task=kind), atol=1e-5)
    if kind is not None:
        call = model.encode_query if kind == "query" else model.encode_document
        found = ask("routed", {"text_input": TEXTS}, prompt_name=kind)["embedding"]
        np.testing.assert_allclose(found, call(TEXTS), atol=1e-5)
    late = fleet.references["routed-late"]
    found = ask("routed-late", {"text_input": TEXTS}, normalize=False, **named)["embedding"]
    np.testing.assert_allclose(found, late.encode(TEXTS, task=kind), atol=1e-5)
    sparse = fleet.references["routed-sparse"]
    rows = ask("routed-sparse", {"text_input": TEXTS}, **named)
    wanted = sparse.encode(TEXTS, task=kind, convert_to_sparse_tensor=False).cpu().numpy()
    for row, start, stop in zip(wanted, rows["offsets"][:-1], rows["offsets"][1:], strict=True):
        dense = np.zeros_like(row)
        dense[rows["indices"][start:stop]] = rows["values"][start:stop]
        np.testing.assert_allclose(dense, row, atol=1e-5)
    ids = np.array([[7, 9, -1], [5, 6, 7]], np.int32)
    assert ask("routed", {"input_ids": ids}, **named)["embedding"].shape == (2, 48)


def test_types_of_inputs_are_those_of_the_model(ask: Any) -> None:
    for model, kind, message in (
        ("routed", "passage", "input_type is 'passage'; the model has query, document"),
        ("bert", "query", "input_type is 'query'; the model encodes all texts alike"),
    ):
        with pytest.raises(InferenceServerException, match=message):
            ask(model, {"text_input": ["a"]}, input_type=kind)


def test_heads_that_one_route_lacks(ask: Any) -> None:
    """The forward failed on a query, with the error of a dictionary."""
    found = ask("routed", {"text_input": TEXTS}, input_type="document", return_sparse=True)
    assert found["sparse_indices"].shape == found["sparse_values"].shape
    with pytest.raises(InferenceServerException, match="part for 'query' has no sparse_linear.pt"):
        ask("routed", {"text_input": TEXTS}, input_type="query", return_sparse=True)


def test_prompts(fleet: Fleet, ask: Any) -> None:
    found = ask("bert", {"text_input": TEXTS}, prompt_name="query")["embedding"]
    expected = np.stack([_unit(_hidden(fleet, "bert", "Q:" + t).mean(0)) for t in TEXTS])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(InferenceServerException, match="prompt_name is 'passage'.*query"):
        ask("bert", {"text_input": TEXTS}, prompt_name="passage")


def test_token_embeddings(fleet: Fleet, ask: Any) -> None:
    found = ask("bert", {"text_input": TEXTS}, return_token_embeddings=True)["token_embedding"]
    for row, text in zip(found, TEXTS, strict=True):
        hidden = _hidden(fleet, "bert", text)
        np.testing.assert_allclose(row[: len(hidden)], hidden.numpy(), atol=5e-5)
        assert not row[len(hidden) :].any()


def test_ids_in_place_of_text(fleet: Fleet, ask: Any) -> None:
    rows = [fleet.ids(text) for text in TEXTS]
    ids = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    found = ask("bert", {"input_ids": ids})["embedding"]
    np.testing.assert_allclose(found, ask("bert", {"text_input": TEXTS})["embedding"], atol=1e-6)
    ids[1, 0] = 96
    with pytest.raises(InferenceServerException, match=r"input_ids\[1\] has id 96.*96"):
        ask("bert", {"input_ids": ids})


@pytest.mark.parametrize("direction", ["left", "right"])
def test_truncation(fleet: Fleet, ask: Any, direction: str) -> None:
    long = "abcdefghij" * 12
    cut = Tokenizer.from_str(fleet.tokenizer.to_str())
    cut.enable_truncation(70, direction=direction)
    ids = cut.encode(long).ids
    with torch.inference_mode():
        hidden = fleet.references["bert"](torch.tensor([ids])).last_hidden_state[0]
    found = ask("bert", {"text_input": [long]}, truncation_direction=direction)
    np.testing.assert_allclose(found["embedding"][0], _unit(hidden.mean(0)), atol=1e-5)
    with pytest.raises(InferenceServerException, match="122 tokens.*70"):
        ask("bert", {"text_input": [long]}, truncate=False)


def test_too_many_texts(ask: Any) -> None:
    with pytest.raises(InferenceServerException, match="40"):
        ask("roberta", {"text_input": ["a"] * 41})
    with pytest.raises(InferenceServerException, match="257 texts.*256"):
        ask("classifier", {"text_input": ["a"] * 257})


def test_sparse(fleet: Fleet, ask: Any) -> None:
    found = ask("splade", {"text_input": TEXTS})
    bounds = found["offsets"].tolist()
    for text, start, stop in zip(TEXTS, bounds[:-1], bounds[1:], strict=True):
        with torch.inference_mode():
            logits = fleet.references["splade"](torch.tensor([fleet.ids(text)])).logits[0]
        expected = logits.relu().log1p().amax(0)
        dense = torch.zeros_like(expected)
        dense[torch.from_numpy(found["indices"][start:stop]).long()] = torch.from_numpy(
            found["values"][start:stop]
        )
        torch.testing.assert_close(dense, expected, atol=2e-5, rtol=0)


def _logits(fleet: Fleet, name: str, texts: str | tuple[str, str]) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = fleet.references[name](torch.tensor([fleet.ids(texts)])).logits[0]
    return found


def test_rerank(fleet: Fleet, ask: Any) -> None:
    expected = torch.stack([_logits(fleet, "reranker", ("coral?", t)) for t in TEXTS])
    found = ask("reranker", {"query": ["coral?"], "text_input": TEXTS})["score"]
    np.testing.assert_allclose(found, expected.sigmoid().numpy(), atol=1e-5)
    raw = ask("reranker", {"query": ["coral?"] * 4, "text_input": TEXTS}, raw_scores=True)
    np.testing.assert_allclose(raw["score"], expected.numpy(), atol=5e-5)
    with pytest.raises(InferenceServerException, match="query has 2 texts and text_input 4"):
        ask("reranker", {"query": ["a", "b"], "text_input": TEXTS})
    with pytest.raises(InferenceServerException, match="query is missing"):
        ask("reranker", {"text_input": TEXTS})


def test_a_cross_encoders_own_prompt(fleet: Fleet, ask: Any) -> None:
    """sentence-transformers 6 saves one, and puts it before the query; it was left out."""
    pairs = [fleet.tokenizer.encode("Q:coral?", text) for text in TEXTS]
    model = fleet.references["prompted"]
    with torch.inference_mode():
        logits = [
            model(torch.tensor([e.ids]), token_type_ids=torch.tensor([e.type_ids])).logits[0]
            for e in pairs
        ]
    found = ask("prompted", {"query": ["coral?"], "text_input": TEXTS}, raw_scores=True)["score"]
    np.testing.assert_allclose(found, torch.stack(logits).numpy(), atol=5e-5)


def test_classify(fleet: Fleet, ask: Any) -> None:
    expected = torch.stack([_logits(fleet, "classifier", t) for t in TEXTS]).softmax(-1)
    found = ask("classifier", {"text_input": TEXTS})["score"]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    pairs = torch.stack([_logits(fleet, "classifier", (t, "b")) for t in TEXTS]).softmax(-1)
    found = ask("classifier", {"text_input": TEXTS, "text_pair": ["b"] * 4})["score"]
    np.testing.assert_allclose(found, pairs.numpy(), atol=1e-5)


def test_a_long_question_holds_nobody_up(fleet: Fleet, ask: Any) -> None:
    """Asked to tokenize 2 MB, a model answered nobody else for some 10 seconds."""
    text = "coral " * 50_000
    question = json.dumps({"op": "tokenize", "inputs": [text]})
    nothing = grpc.InferInput("text_input", [1, 1], "BYTES")
    nothing.set_data_from_numpy(np.array([[b""]], dtype=object))
    answers: Queue[tuple[float, Any]] = Queue()

    def is_held_up(client: Any) -> bool:
        """Whether the answer to a request comes after that to the question, sent before it."""
        client.async_infer(
            "bert",
            [nothing],
            lambda result, error: answers.put((time.monotonic(), error or result)),
            parameters={"control": question},
        )
        time.sleep(0.1)
        ask("bert", {"text_input": TEXTS})
        embedded = time.monotonic()
        answered, result = answers.get(timeout=60)
        rows = json.loads(result.as_numpy("control")[0, 0])
        assert len(rows[0]) == len(fleet.ids(text))
        return embedded > answered

    with grpc.InferenceServerClient(fleet.server.grpc_url) as client:
        # Once may be this process itself, which a busy machine did not let go on.
        assert not all(is_held_up(client) for _ in range(5))
