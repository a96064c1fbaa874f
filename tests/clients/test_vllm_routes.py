"""vLLM's routes for tokens, its version, and OpenAI's moderations."""

from __future__ import annotations

import httpx
import openai
import pytest
from gateways import EMBEDDER, GENERATOR, Served
from transformers import AutoTokenizer

import atoll_client
from atoll.weights.files import resolve

CHAT = [{"role": "user", "content": "Where is é?"}]


def test_tokens_of_prompts_and_chats(http: httpx.Client, served: Served) -> None:
    oracle = AutoTokenizer.from_pretrained(str(resolve("HuggingFaceTB/SmolLM2-135M-Instruct")))
    body = {"model": GENERATOR, "prompt": "Where is é?", "return_token_strs": True}
    found = http.post("/tokenize", json=body).json()
    expected = oracle("Where is é?")["input_ids"]
    assert found["tokens"] == expected and found["count"] == len(expected)
    assert "".join(found["token_strs"]) == "Where is é?" and found["max_model_len"] > 1000
    chat = http.post("/tokenize", json={"model": GENERATOR, "messages": CHAT}).json()
    template = oracle.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert chat["tokens"] == oracle(template, add_special_tokens=False)["input_ids"]
    assert chat["token_strs"] is None
    back = http.post("/detokenize", json={"model": GENERATOR, "tokens": chat["tokens"]})
    assert back.json() == {"prompt": template}
    # An encoder's special tokens, with and without.
    for given, count in ((True, 3), (False, 1)):
        body = {"model": EMBEDDER, "prompt": "cat", "add_special_tokens": given}
        assert http.post("/tokenize", json=body).json()["count"] == count


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("/tokenize", {"messages": CHAT, "add_special_tokens": True}, "add_special_tokens"),
        ("/tokenize", {"prompt": "a", "unknown": 1}, "unknown"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "-1"),
        ("/v1/moderations", {"input": []}, "input"),
        ("/v1/moderations", {"input": [{"type": "image_url", "image_url": "x"}]}, "input"),
    ],
)
def test_what_is_refused(http: httpx.Client, path: str, body: object, word: str) -> None:
    answer = http.post(path, json=body)
    refused_absent = path == "/v1/moderations" and answer.status_code == 404
    assert answer.status_code == 400 or refused_absent, answer.text
    assert word in answer.json()["error"]["message"] or refused_absent


def test_the_version(http: httpx.Client) -> None:
    assert http.get("/version").json() == {"version": atoll_client.__version__}


def test_moderations(served: Served, scoring: Served) -> None:
    absent = httpx.post(f"{served.url}/v1/moderations", json={"input": "a"})
    assert (
        absent.status_code == 404
        and "no model here can classify" in absent.json()["error"]["message"]
    )
    with openai.OpenAI(base_url=f"{scoring.url}/v1", api_key="k", max_retries=0) as client:
        texts = ["abc", "def ghi"]
        found = client.moderations.create(input=texts)
        expected = httpx.post(
            f"{scoring.url}/{found.model}/predict", json={"inputs": [[t] for t in texts]}
        ).json()
        assert len(found.results) == 2
        for result, labels in zip(found.results, expected, strict=True):
            scores = {one["label"]: one["score"] for one in labels}
            given = result.model_dump()
            assert given["category_scores"] | scores == pytest.approx(
                scores | given["category_scores"]
            )
            flags = {name for name, is_set in given["categories"].items() if is_set}
            assert flags == {max(scores, key=lambda label: scores[label])} and result.flagged
        named = client.moderations.create(input="abc", model="omni-moderation-latest")
        assert named.results[0] == found.results[0]
        parts = [{"type": "text", "text": "abc"}, {"type": "text", "text": "def"}]
        assert len(client.moderations.create(input=parts).results) == 1
        # Nothing of a text is left unread, unless the request says so.
        with pytest.raises(openai.BadRequestError, match="`input` must have less than"):
            client.moderations.create(input="abc " * 5000)
        cut = client.moderations.create(input="abc " * 5000, extra_body={"truncate": True})
        assert len(cut.results) == 1
