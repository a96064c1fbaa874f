"""Tensors of any model go to the server and come back, by ``Client.infer``'s own functions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from atoll_client import kserve, tasks
from atoll_client.batching import in_parts
from atoll_client.errors import UnsupportedModel, ValidationError


def answer(request: Any) -> Any:
    """A response with a request's tensors."""
    found = pb.ModelInferResponse(raw_output_contents=request.raw_input_contents)
    for tensor in request.inputs:
        found.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return found


DTYPES = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_of_every_type(dtype: str) -> None:
    """Only those of Atoll's own models could be read: FP64 was a KeyError."""
    array = np.array([[0, 1, 2], [3, 1, 0]]).astype(dtype)
    request = kserve.request("any")
    kserve.add_array(request, "x", array)
    found = kserve.as_text(kserve.outputs(answer(request)))["x"]
    assert found.dtype == array.dtype and np.array_equal(found, array)


def test_texts() -> None:
    request = kserve.request("any")
    kserve.add_array(request, "x", [["é"], ["日本"], [""]])
    assert list(request.inputs[0].shape) == [3, 1]
    assert kserve.as_text(kserve.outputs(answer(request)))["x"] == ["é", "日本", ""]


def test_numbers_that_numpy_lacks_are_named() -> None:
    response = pb.ModelInferResponse(raw_output_contents=[b"\0\0"])
    response.outputs.add(name="x", datatype="BF16", shape=[1])
    with pytest.raises(UnsupportedModel, match="output x is BF16"):
        kserve.outputs(response)


def test_ids_of_several_answers_are_told_apart() -> None:
    """Each answer had the ids of all."""
    request = kserve.request("any")
    kserve.add_array(request, "text_output", ["ab", "", "c"])
    kserve.add_array(request, "num_output_tokens", np.array([2, 0, 1], np.uint32))
    kserve.add_array(request, "token_ids", np.array([7, 8, 9], np.int32))
    chunks = kserve.read_chunks(answer(request))
    assert [[token.id for token in chunk.tokens] for chunk in chunks] == [[7, 8], [], [9]]


def test_alternatives_that_are_no_characters() -> None:
    top = {
        "5": {"logprob": -1.0, "rank": 2, "decoded_token": "", "bytes": [226, 130]},
        "6": {"logprob": -0.5, "rank": 1, "decoded_token": "bytes:\\xe2", "bytes": [226]},
        "7": {"logprob": -9999.0, "rank": 3, "decoded_token": "</s>", "special": True},
    }
    special = {"8": {"logprob": -2.0, "rank": 1, "decoded_token": "", "token": "<s>", "bytes": [],
                     "special": True}}  # fmt: skip
    request = kserve.request("any")
    kserve.add_array(request, "text_output", ["€"])
    kserve.add_array(request, "logprobs", [json.dumps([top, special])])
    (chunk,) = kserve.read_chunks(answer(request))
    first, second = chunk.tokens
    assert (first.id, first.text, first.bytes, first.name) == (5, "", b"\xe2\x82", "")
    assert [one.id for one in first.top] == [6, 5, 7]
    assert first.top[0] == (6, "bytes:\\xe2", -0.5, b"\xe2", False) and first.top[2].special
    assert (second.text, second.name, second.bytes, second.special) == ("", "<s>", b"", True)


def test_errors_of_parts_name_the_row_in_the_whole_list() -> None:
    """Of 300 texts, the 290th was called the 34th, its place in the second request."""

    async def answer(part: Sequence[Any]) -> int:
        if "bad" in part:
            raise ValidationError(f"text_input[{part.index('bad')}] is not 'text_input[7]'")
        return len(part)

    texts = ["a"] * 289 + ["bad"] + ["a"] * 10
    with pytest.raises(ValidationError, match=r"text_input\[289\] is not 'text_input\[7\]'"):
        asyncio.run(in_parts(texts, 256, False, answer))
    assert asyncio.run(in_parts(texts[:260], 256, False, answer)) == [256, 4]


@pytest.mark.parametrize(
    ("options", "word"),
    [({}, "another seed"), ({"num_beams": 2}, "best"), ({"use_beam_search": True}, "best")],
)
def test_several_answers_are_refused_with_what_there_is_instead(
    options: dict[str, Any], word: str
) -> None:
    """A beam search has no seed."""
    with pytest.raises(ValidationError, match=f"^n is 2; .*{word}"):
        tasks.check_one({**options, "n": 2})
