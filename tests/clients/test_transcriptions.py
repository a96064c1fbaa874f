"""Speech over OpenAI's routes, KServe and the command line: a tiny Whisper in a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import soundfile
from gateways import Served
from tiny.whisper import sound
from typer.testing import CliRunner

from atoll.cli.app import app
from atoll.errors import ConfigError
from atoll_client import AtollError, Client, Transcript

MODEL = "tiny-transcribe"
WAVE = sound(2.2)


def _file(kind: str = "WAV") -> bytes:
    file = BytesIO()
    soundfile.write(file, WAVE, 16000, format=kind)
    return file.getvalue()


FILE = _file()


@pytest.fixture(scope="module")
def ours(scoring: Served) -> Transcript:
    """What the model says of the file."""
    with Client(scoring.server.grpc_url) as client:
        return client.transcribe(FILE, language="fr")


@pytest.fixture(scope="module")
def openai_client(scoring: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{scoring.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_formats(openai_client: openai.OpenAI, ours: Transcript) -> None:
    given: Any = {"model": MODEL, "file": ("a.wav", FILE), "language": "fr"}
    create = openai_client.audio.transcriptions.create
    assert create(**given).text == ours.text
    assert create(**given, response_format="text") == f"{ours.text}\n"
    found: Any = create(
        **given, response_format="verbose_json", timestamp_granularities=["segment"], prompt=""
    )
    assert (found.text, found.language, found.duration) == (ours.text, "french", 2.2)
    assert [(s.start, s.end, s.text, tuple(s.tokens)) for s in found.segments] == [
        (s.start, s.end, s.text, s.tokens) for s in ours.segments
    ]
    first = ours.segments[0]
    begin, end = (f"00:00:{t:06.3f}" for t in (first.start, first.end))
    srt: Any = create(**given, response_format="srt")
    assert srt.startswith(f"1\n{begin} --> {end}\n".replace(".", ","))
    assert srt.count("-->") == len(ours.segments)
    vtt: Any = create(**given, response_format="vtt")
    assert vtt.startswith(f"WEBVTT\n\n{begin} --> {end}\n")


def test_streams(openai_client: openai.OpenAI, ours: Transcript) -> None:
    with openai_client.audio.transcriptions.create(
        model=MODEL, file=("a.wav", FILE), language="fr", stream=True
    ) as events:
        *deltas, done = list(events)
    assert [one.type for one in deltas] == ["transcript.text.delta"] * len(deltas)
    assert len(deltas) > 1 and done.type == "transcript.text.done"
    assert "".join(one.delta for one in deltas) == done.text == ours.text.rstrip("\n")


def test_translations(scoring: Served, openai_client: openai.OpenAI) -> None:
    found = openai_client.audio.translations.create(model=MODEL, file=("a.flac", _file("FLAC")))
    with Client(scoring.server.grpc_url) as client:
        wanted = client.transcribe(_file("FLAC"), task="translate")
    assert found.text == wanted.text


def test_json_with_a_data_uri_and_kserve_with_a_waveform(scoring: Served, ours: Transcript) -> None:
    from atoll_client.speech import sound_of

    with httpx.Client(base_url=scoring.url, timeout=60.0) as http:
        body = {"file": sound_of(FILE), "language": "fr"}
        assert http.post("/v1/audio/transcriptions", json=body).json()["text"] == ours.text
        body = {"waveform": WAVE.tolist(), "parameters": {"language": "fr"}}
        found = http.post(f"/v2/models/{MODEL}/generate", json=body).json()
        assert len(json.loads(found["segments"])) == len(ours.segments)


@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities", "times are of segments"),
        ({"language": "ja"}, "language", "none of the model's 3 languages"),
        ({"temperature": "2"}, "temperature", "2"),
        ({"temperature": "warm"}, "temperature", "warm"),
        ({"response_format": "xml"}, "response_format", "xml"),
        ({"response_format": "srt", "stream": "true"}, "response_format", "stream"),
        ({"prompt": "<|fr|>"}, "prompt", "special tokens"),
        ({"nix": "1"}, "nix", "unknown"),
        ({"model": "nix"}, None, "nix"),
    ],
)
def test_refused(scoring: Served, fields: dict[str, str], param: str | None, word: str) -> None:
    with httpx.Client(base_url=scoring.url, timeout=60.0) as http:
        answer = http.post("/v1/audio/transcriptions", data=fields, files={"file": FILE})
    error = answer.json()["error"]
    assert answer.status_code in (400, 404) and word in error["message"], error
    assert error["param"] == param or param is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"language": "ja"}, "language is 'ja', which is none of the model's 3 languages"),
        ({"task": "sing"}, "sing"),
        ({"timestamp_granularities": "word"}, "timestamp_granularities is 'word'"),
        ({"session_id": "a"}, "session_id is 'a'; a sound is no conversation"),
        ({"timestamps": False}, "timestamps is false, and the sound has 2.20 seconds"),
        ({"temperature": 1.5}, "temperature is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"prompt": "<|fr|>"}, "special tokens"),
    ],
)
def test_the_model_refuses_by_name(scoring: Served, given: dict[str, Any], message: str) -> None:
    with (
        Client(scoring.server.grpc_url) as client,
        pytest.raises(AtollError, match=re.escape(message)),
    ):
        client.transcribe(WAVE, MODEL, **given)


@pytest.mark.parametrize(
    ("content", "kind", "word"),
    [
        (b"--x\r\n", "multipart/form-data; boundary=x", "cut off"),
        (b"--x--\r\n", "multipart/form-data; boundary=x", "`file`"),
        (b"", "multipart/form-data", "no boundary"),
        (b"--x\r\nabc\r\n--x--", "multipart/form-data; boundary=x", "no header"),
        (b"--x\r\nA: b\r\n\r\nabc\r\n--x--", "multipart/form-data; boundary=x", "no name"),
        (b"{", "application/json", "not valid JSON"),
    ],
)
def test_damaged_forms(scoring: Served, content: bytes, kind: str, word: str) -> None:
    with httpx.Client(base_url=scoring.url, timeout=60.0) as http:
        headers = {"content-type": kind}
        answer = http.post("/v1/audio/transcriptions", content=content, headers=headers)
    assert answer.status_code == 400 and word in answer.json()["error"]["message"], answer.text


def test_damaged_files_name_the_field(scoring: Served) -> None:
    with httpx.Client(base_url=scoring.url, timeout=60.0) as http:
        answer = http.post("/v1/audio/transcriptions", files={"file": b"RIFF"})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == "file", error
    assert error["message"].startswith("file is damaged, or no file of one of the formats WAV")


def test_the_command_line(scoring: Served, ours: Transcript, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(FILE)

    def infer(model: str, *arguments: str) -> Any:
        environment = {"ATOLL_URL": scoring.server.grpc_url, "COLUMNS": "200"}
        found = CliRunner().invoke(
            app, ["infer", model, *arguments], catch_exceptions=False, env=environment
        )
        return json.loads(found.stdout)["results"] if "--json" in arguments else found.stdout

    with Client(scoring.server.grpc_url) as client:
        wanted = client.transcribe(path)
    (row,) = infer(MODEL, "--audio", str(path), "--json")
    assert row["text"] == wanted.text and row["language"] == wanted.language
    assert len(row["segments"]) == len(wanted.segments)
    with pytest.raises(ConfigError, match="--audio says which file"):
        infer(MODEL, "--text", "a")
    with pytest.raises(ConfigError, match="--audio is for models that transcribe"):
        infer("tiny-classify", "--audio", str(path))
