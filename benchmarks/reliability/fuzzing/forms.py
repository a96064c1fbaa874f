"""Forms with files, as uploads and sounds are sent, with something wrong."""

from __future__ import annotations

import io
import json
import wave

from hypothesis import strategies as st

from fuzzing import target
from fuzzing.values import bits_flipped

_LINE = {"custom_id": "1", "method": "POST", "url": "/v1/embeddings",
         "body": {"input": "a", "model": target.EMBEDDER}}  # fmt: skip
_VALUES = ("", "batch", "json", "srt", "0", "-1", "1e999", "en", "\u2603", "a" * 9000, "true", "[]")


def _sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes(bytes(range(256)) * 40)
    return file.getvalue()


_SOUND = _sound()
_HEADS = (b"", b"fLaC", b"OggS", b"ID3\x04", b"\xff\xfb\x90\0", b"RIFF\xff\xff\xff\xffWAVEfmt ")


@st.composite
def forms(draw: st.DrawFn, path: str) -> tuple[str, bytes]:
    """A content type and a body."""
    if path == "/v1/files":
        fields = [("purpose", b"batch"), ("file", draw(_lines()))]
        names = ["purpose", "expires_after[anchor]", "expires_after[seconds]", "x", ""]
    else:
        fields = [("model", target.SPEECH.encode()), ("file", draw(_sounds()))]
        names = ["model", "language", "prompt", "response_format", "seed", "stream", "temperature",
                 "timestamp_granularities[]", "x", ""]  # fmt: skip
    more = st.tuples(st.sampled_from(names), st.sampled_from(_VALUES))
    fields += [(n, v.encode()) for n, v in draw(st.lists(more, max_size=3))]
    if draw(st.integers(0, 9)) == 0:
        fields.pop(draw(st.integers(0, len(fields) - 1)))
    fields = draw(st.permutations(fields))
    raw = b"".join(_part(draw, name, value) for name, value in fields) + b"--x--\r\n"
    kind = "multipart/form-data; boundary=x"
    match draw(st.integers(0, 9)):
        case 0:
            raw = draw(bits_flipped(raw))
        case 1:
            raw = raw[: -draw(st.integers(1, 12))]
        case 2:
            kind = draw(st.sampled_from(_KINDS))
        case 3:
            raw = raw.replace(b"\r\n", b"\n")
    return kind, raw


_KINDS = (
    "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=y",
    'multipart/form-data; boundary="x', "multipart/mixed; boundary=x", "multipart/form-data; x",
    "multipart/form-data; boundary=" + "b" * 300, "application/x-www-form-urlencoded",
)  # fmt: skip


def _part(draw: st.DrawFn, name: str, value: bytes) -> bytes:
    file = f'; filename="{draw(st.sampled_from(_FILES))}"' if name == "file" else ""
    more = draw(st.sampled_from([b""] * 8 + [b"content-type: a/b; charset=nope\r\n", b"x\r\n",
                                 b"x: " + b"y" * 20_000 + b"\r\n",
                                 b"content-transfer-encoding: base64\r\n"]))  # fmt: skip
    head = f'--x\r\ncontent-disposition: form-data; name="{name}"{file}\r\n'.encode()
    return head + more + b"\r\n" + value + b"\r\n"


_FILES = ("a.jsonl", "a.wav", "", "../../x", "a" * 4000, "\u2603", 'a\\"b', "\0")


@st.composite
def _lines(draw: st.DrawFn) -> bytes:
    bodies = [_LINE, _LINE | {"url": "/v1/nope"}, _LINE | {"body": 1}, _LINE | {"custom_id": ""},
              {}, [], 7]  # fmt: skip
    rows = [json.dumps(draw(st.sampled_from(bodies))).encode() for _ in range(draw(_few()))]
    raw = draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n", b"\r"])).join(rows)
    return draw(bits_flipped(raw)) if draw(st.integers(0, 3)) == 0 else raw


def _few() -> st.SearchStrategy[int]:
    return st.integers(0, 4)


@st.composite
def _sounds(draw: st.DrawFn) -> bytes:
    match draw(st.integers(0, 3)):
        case 0:
            return _SOUND
        case 1:
            # Of its header, too.
            return draw(bits_flipped(_SOUND[:44])) + _SOUND[44:]
        case 2:
            return draw(st.sampled_from(_HEADS)) + draw(st.binary(max_size=400))
    return _SOUND[: draw(st.integers(0, 120))]
