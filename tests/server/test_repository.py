"""The folders of model_repository/ in a real server, over tiny checkpoints of their architectures.

The folders are the committed ones; only ``model_id`` is changed, to a local checkpoint. Of folders
that differ in their names and checkpoints alone, such as Qwen3's sizes, one is served.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from repository_requests import infer, over_grpc, over_http
from tiny.bart import LANGUAGES, START
from tiny.towers import data_uri, encoded, picture, read_towers
from tiny.whisper import sound
from tritonclient.utils import InferenceServerException
from whole_repository import (
    COUNT,
    ENCODERS,
    ENTRIES_BY_NAME,
    GENERATORS,
    GROUPS,
    PIPELINES,
    PROMPT,
    REPOSITORY,
    SERVED_ENCODERS,
    SERVED_GENERATORS,
    SERVED_TRANSCRIBERS,
    SESSIONS,
    TEXTS,
    TRANSCRIBERS,
    Groups,
    Served,
    shape,
    takes_images,
)

from atoll.catalogue import Entry
from atoll.text.tokenizer import Tokenizer
from atoll_client import Client


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Groups]:
    found = Groups(tmp_path_factory)
    yield found
    found.close()


@pytest.fixture
def group(groups: Groups, name: str) -> dict[str, Served]:
    return groups.of(name)


def _in_groups(names: list[str]) -> pytest.MarkDecorator:
    """Parametrises a test over entries; all tests of a group come one after another."""
    order = {name: index for index, names in enumerate(GROUPS) for name in names}
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.in_server(order[name])) for name in names]
    )


def _assert_greedy(served: Served, ids: list[int]) -> None:
    """Each token is transformers' most likely one after the prompt and those before it."""
    assert len(ids) == COUNT
    assert served.reference is not None
    scores = served.reference(Tokenizer.load(served.checkpoint).encode(PROMPT), ids)
    best = scores.max(-1)
    chosen = scores[range(COUNT), ids]
    assert best.indices.tolist() == ids or (best.values - chosen).max() < 2e-5


@_in_groups(["m2m100-418m"])
def test_a_translation_is_between_the_languages_named(group: dict[str, Served], name: str) -> None:
    served = group[name]
    assert served.reference is not None
    tokenizer = Tokenizer.load(served.checkpoint)
    assert tokenizer.languages is not None
    english, french = (tokenizer.languages.ids[code] for code in LANGUAGES)
    plain = tokenizer.encode(PROMPT, add_special_tokens=False)
    ids = over_http(served, src_lang=LANGUAGES[1], tgt_lang=LANGUAGES[0])["token_ids"]
    inputs = tokenizer.languages.framed(plain, french)
    scores = served.reference(inputs, ids, (START, english))  # type: ignore[call-arg]
    best = scores.max(-1)
    assert (best.values - scores[range(COUNT), ids]).max() < 2e-5
    with pytest.raises(urllib.error.HTTPError) as refused:
        over_http(served, tgt_lang="fr")
    assert "none of the model's 2 languages; near it: fra_Latn" in refused.value.read().decode()


@_in_groups(["opus-mt-en-de"])
def test_a_text_begins_with_the_language_of_its_translation(
    group: dict[str, Served], name: str
) -> None:
    served = group[name]
    found = over_http(served, tgt_lang="fra", num_beams=1)
    ids = Tokenizer.load(served.checkpoint).encode(f">>fra<< {PROMPT}")
    assert served.reference is not None
    scores = served.reference(ids, found["token_ids"])
    best = scores.max(-1)
    assert (best.values - scores[range(COUNT), found["token_ids"]]).max() < 2e-5
    for options, message in (
        ({"tgt_lang": "fr"}, "none of the model's 3 languages; near it: fra"),
        ({"src_lang": "eng"}, "a text's language is not told"),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            over_http(served, **options)
        assert message in refused.value.read().decode()


@_in_groups(["bart-large-cnn"])
def test_answers_are_searched_for_where_the_files_say_so(
    group: dict[str, Served], name: str
) -> None:
    """As with the same options in the request; a stream has the answer in one piece at its end."""
    served = group[name]
    found = over_http(served, return_cumulative_logprob=True, return_finish_reason=True)
    ids, greedy = found["token_ids"], over_http(served, num_beams=1)["token_ids"]
    asked = {"num_beams": 4, "use_beam_search": True, "n": 2, "return_cumulative_logprob": True}
    several = over_http(served, **asked, forced_eos_token_id=START)
    assert several["token_ids"][:COUNT] == ids and ids[-1] == START != greedy[-1]
    assert several["text_output"][0] == found["text_output"]
    assert several["cumulative_logprob"][0] == found["cumulative_logprob"]
    assert found["finish_reason"] == "length"
    texts, streamed = over_grpc(served)
    assert streamed == ids and [text for text in texts if text] == [found["text_output"]]
    with pytest.raises(urllib.error.HTTPError) as refused:
        over_http(served, num_beams=9)
    assert "num_beams is 9; the most allowed is 8" in refused.value.read().decode()


@_in_groups(["all-minilm-l6-v2-ensemble"])
def test_ensemble_is_its_encoder(group: dict[str, Served], name: str) -> None:
    column = {"text_input": [[text] for text in TEXTS]}
    expected = infer(group["all-minilm-l6-v2"], column)
    np.testing.assert_array_equal(infer(group[name], column)["embedding"], expected["embedding"])


@_in_groups(["retrieve-rerank"])
def test_retrieve_rerank_orders_all_documents(group: dict[str, Served], name: str) -> None:
    documents = [[text] for text in (*TEXTS, "a lagoon")]
    found = infer(group[name], {"query": ["a ring?"], "text_input": documents})
    scores = infer(
        group["bge-reranker-base"], {"query": [["a ring?"]] * 3, "text_input": documents}
    )["score"][:, 0]
    assert sorted(found["index"]) == [0, 1, 2]
    np.testing.assert_allclose(found["score"], scores[found["index"]], rtol=1e-5)
    assert (np.diff(found["score"]) <= 0).all()


@_in_groups(["hybrid-search"])
def test_hybrid_search_returns_all_documents(group: dict[str, Served], name: str) -> None:
    documents = [[text] for text in (*TEXTS, "a lagoon")]
    found = infer(group[name], {"query": ["a ring?"], "text_input": documents})
    assert sorted(found["index"]) == [0, 1, 2] and (np.diff(found["score"]) <= 0).all()
    assert found["score"].max() <= np.float32(3 / 61)


@_in_groups([name for name in [*PIPELINES, *SERVED_ENCODERS] if name in ENTRIES_BY_NAME])
def test_encoder_answers_over_http_and_grpc(group: dict[str, Served], name: str) -> None:
    served, entry = group[name], ENTRIES_BY_NAME[name]
    column = [[text] for text in TEXTS]
    inputs = {"text_input": column}
    if entry.task in ("rerank", "multi_vector"):
        inputs["query"] = [["a ring?"]] * 2
    found = infer(served, inputs)
    if entry.task == "embed":
        _assert_embeddings(served, entry, found["embedding"])
    elif entry.task == "sparse":
        assert len(found["indices"]) == len(found["values"]) == found["offsets"][-1] > 0
    elif entry.task == "multi_vector":
        assert found["vectors"].shape == (found["offsets"][-1], entry.dims["embedding"])
        assert found["score"].shape == (2, 1)
    elif entry.task == "token_classify":
        assert len(found["label"]) == len(found["word"]) == found["offsets"][-1] > 0
        assert (found["start"] < found["end"]).all()
    else:
        assert found["score"].shape == (2, entry.dims.get("labels", 1))
        assert ((found["score"] > 0) & (found["score"] < 1)).all()


def _assert_embeddings(served: Served, entry: Entry, found: np.ndarray[Any, Any]) -> None:
    """The reference's hidden states, pooled as the entry says; of a decoder the one vector."""
    core = Tokenizer.load(served.checkpoint).core
    assert served.reference is not None
    for row, text in zip(found, TEXTS, strict=True):
        hidden = served.reference(core.encode(text).ids).double()
        pooled = hidden[0] if entry.settings.get("pooling", "cls") == "cls" else hidden.mean(0)
        expected = torch.nn.functional.normalize(pooled, dim=0)
        assert row.shape == (entry.dims["embedding"],)
        assert float(torch.from_numpy(row.copy()).double() @ expected) > 1 - 1e-6


@_in_groups([name for name in SERVED_ENCODERS if takes_images(name)])
def test_images_and_texts_have_one_entry(group: dict[str, Served], name: str) -> None:
    """Bytes and data URIs over HTTP and gRPC; what is refused is named."""
    served = group[name]
    towers = read_towers(served.checkpoint)
    files = [encoded(picture(50, 37)), encoded(picture(33, 64, 1), "JPEG")]
    expected = torch.nn.functional.normalize(torch.stack([*map(towers.image, files)]), dim=-1)
    uris = [data_uri(files[0]).encode(), data_uri(files[1], "jpeg").encode()]
    for images in (files, uris):
        found = infer(served, {"image": [[image] for image in images]})["embedding"]
        assert float(np.abs(found - expected.numpy()).max()) < 1e-5
    for image, message in (
        (b"https://example.com/a.png", "never fetched"), (b"/etc/passwd", "never opened"),
        (files[0][:200], "cut off"), (encoded(picture(9, 9), "BMP"), "PNG, JPEG, WEBP, GIF"),
    ):  # fmt: skip
        with pytest.raises(InferenceServerException, match=rf"image\[1\] .*{message}"):
            infer(served, {"image": [[files[0]], [image]]})
    with pytest.raises(InferenceServerException, match="either image or text_input"):
        infer(served, {"image": [[files[0]]], "text_input": [["a"]]})
    assert infer(served, {"image": [[files[0]]]})["embedding"].shape == (1, len(expected[0]))
    texts = {"text_input": [[text] for text in TEXTS]}
    found = infer(served, texts, return_token_embeddings=True)
    # Texts that are filled up have vectors of their own tokens.
    assert found["token_embedding"].shape[1] == found["num_input_tokens"].max()


@_in_groups(SERVED_GENERATORS)
def test_generator_answers_over_http_and_streams_over_grpc(
    group: dict[str, Served], name: str
) -> None:
    served = group[name]
    answer = over_http(served, num_beams=1)
    _assert_greedy(served, answer["token_ids"])
    pieces = []
    for _ in range(5):
        texts, ids = over_grpc(served, num_beams=1)
        assert ids == answer["token_ids"]
        assert "".join(texts) == answer["text_output"]
        pieces.append(len([text for text in texts if text]))
        if pieces[-1] > 1:
            break
    # On a busy machine all tokens of so small a model may leave together, though not every time.
    assert pieces[-1] > 1, pieces


@_in_groups(SERVED_TRANSCRIBERS)
def test_transcribers_answer_over_http_and_stream_over_grpc(
    group: dict[str, Served], name: str
) -> None:
    served, wave = group[name], sound(2.2)
    with Client(served.server.grpc_url) as client:
        whole = client.transcribe(wave, name, language="fr", prompt="abc")
        assert whole.language == "fr" and abs(whole.duration - 2.2) < 1e-4
        assert len(whole.segments) > 3 and whole.segments[-1].end > 1.5
        assert whole.text == "".join(one.text for one in whole.segments).strip()
        pieces = list(client.stream_transcript(wave, name, language="fr", prompt="abc"))
        assert len(pieces) > 1
        assert [one for piece in pieces for one in piece.segments] == list(whole.segments)
        assert client.transcribe(wave, name).language in ("en", "fr", "de")
    with Client(served.server.http_url) as client:
        assert client.transcribe(wave, name, language="fr", prompt="abc") == whole


def test_every_folder_is_tested() -> None:
    tested = {*PIPELINES, *ENCODERS, *GENERATORS, *TRANSCRIBERS, *SESSIONS}
    assert tested == {path.name for path in REPOSITORY.iterdir()}
    alone = (*ENCODERS, *GENERATORS, *TRANSCRIBERS)
    assert {*alone} <= ENTRIES_BY_NAME.keys()
    served = {*SERVED_ENCODERS, *SERVED_GENERATORS, *SERVED_TRANSCRIBERS}
    assert {shape(name) for name in alone} == {shape(name) for name in served}
