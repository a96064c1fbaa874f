"""config.json with keys of the wrong kind: ``atoll info`` says what the server would, by name.

It ended with one of Python's own errors, or called a checkpoint supported that the server refuses.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny.gemma4s import LARGE, TEXT

from atoll.cli.catalogue import info
from atoll.errors import AtollError
from atoll.models import families, registry

WRONG = ["text", "8", 0, -1, 1.5, float("nan"), True, [], [3], {"a": 1}, None, 2.0**40]
SIZES = {
    "vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 96, "max_position_embeddings": 64,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        **SIZES, "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "rms_norm_eps": 1e-6, "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "torch_dtype": "float16", "attention_bias": False, "quantization_config": {
            "quant_method": "gptq", "bits": 4, "group_size": 16},
    },
    "bert": {
        **SIZES, "architectures": ["BertForSequenceClassification"], "model_type": "bert",
        "id2label": {"0": "a", "1": "b"}, "layer_norm_eps": 1e-12, "dtype": "float32",
    },
    "roberta": {
        **SIZES, "architectures": ["RobertaModel"], "model_type": "roberta", "pad_token_id": 1,
    },
    "t5": {
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "vocab_size": 96,
        "d_model": 48, "d_kv": 16, "d_ff": 80, "num_layers": 2, "num_heads": 4, "n_positions": 64,
        "decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu",
    },
}  # fmt: skip


def _info(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What ``atoll info`` says is in the way; nothing if the checkpoint can be served."""
    try:
        info(str(folder), as_json=True)
    except AtollError as error:
        return str(error)
    told: str = json.loads(capsys.readouterr().out)["implementation"]
    return told if told.startswith("none") else ""


def _server(folder: Path, is_generator: bool) -> str:
    """What loading the model says of its config."""
    table = families.DECODERS if is_generator else families.ENCODERS
    try:
        registry.plan(registry.Checkpoint.open(folder), table)
    except AtollError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", CONFIGS)
def test_every_key(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, wrong = CONFIGS[name], []
    for key in config:
        for value in WRONG:
            (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
            told = _info(tmp_path, capsys)
            if told and key not in told and key not in ("architectures", "model_type"):
                wrong.append(f"{key} = {value!r}: {told}")
            if not told and _server(tmp_path, name in ("llama", "t5")):
                wrong.append(f"{key} = {value!r}: the server refuses it, info does not")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("value", ["foo", -1, 1000000, 1.5, True, [0]])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_the_first_token_of_an_answer(
    file: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engine failed with it, and advised another setting."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["t5"]))
    given = json.loads((tmp_path / file).read_text()) if file == "config.json" else {}
    (tmp_path / file).write_text(json.dumps({**given, "decoder_start_token_id": value}))
    told = _info(tmp_path, capsys)
    assert f"/{file}: decoder_start_token_id is " in told


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"per_layer_config": {"2": {"head_dim": 32}}}, ""),
        ({"per_layer_config": {"2": {"head_dim": 32, "skip": []}}}, r"2 is .*expected head_dim"),
        ({"per_layer_config": {"0": {"head_dim": 32}}}, "0 is .*the other layers of its kind"),
        ({"per_layer_config": {"3": {}}}, "per_layer_config is .*keys from 0 to 2"),
        ({"per_layer_config": {"2": {"num_key_value_heads": 3}}}, "3, does not divide"),
        ({"num_kv_shared_layers": 1}, "num_kv_shared_layers is 1: of one kind of layer_types"),
        ({"vocab_size_per_layer_input": 8, "hidden_size_per_layer_input": 8}, "is 8; expected"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention is 'all'"),
    ],
)  # fmt: skip
def test_layers_that_differ(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Gemma 4's, whose layers have heads of two sizes, and read others' keys and values."""
    config = {"architectures": ["Gemma4ForCausalLM"], "model_type": "gemma4_text", **TEXT, **LARGE}
    (tmp_path / "config.json").write_text(json.dumps({**config, **changed}))
    told = _server(tmp_path, is_generator=True)
    assert re.search(message, told) if message else not told
