"""Entries, their rendered files, and what is read from checkpoints' configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from atoll.catalogue import (
    ENTRIES,
    PIPELINES,
    differences,
    entry_for,
    entry_name,
    read_model,
    read_repository,
    render,
    write_repository,
)
from atoll.config import Settings
from atoll.errors import ConfigError, UnsupportedModel
from atoll.models.families import ENCODER_NAMES, ENCODERS
from atoll.serving.triton.tensor_specs import TASK_TENSORS
from atoll.weights.embedded import EMBEDDED
from atoll.weights.files import resolve

ROOT = Path(__file__).resolve().parents[2]


def checkpoint(folder: Path, modules: list[dict[str, Any]] | None = None, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 32, **config}))
    if modules is not None:
        (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def parse(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_committed_repository_is_rendered_from_the_catalogue() -> None:
    assert differences([*ENTRIES, *PIPELINES], ROOT / "model_repository") == []


def test_entries_say_what_their_checkpoints_say() -> None:
    for entry in (e for e in ENTRIES if e.model_id in EMBEDDED):
        detected = read_model(resolve(entry.model_id))
        assert (detected.task, detected.model_type) == (entry.task, entry.model_type)
        assert entry.dims.get("embedding", detected.embedding_size) == detected.embedding_size


def test_differences_name_changed_missing_and_foreign_files(tmp_path: Path) -> None:
    entries = ENTRIES[:2]
    write_repository(entries, tmp_path)
    first, second = (e.name for e in entries)
    (tmp_path / first / "config.pbtxt").write_text("")
    (tmp_path / second / "1" / "model.py").unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.pbtxt").write_text("")
    expected = [f"{first}/config.pbtxt", "other/config.pbtxt", f"{second}/1/model.py"]
    assert differences(entries, tmp_path) == sorted(expected)


def test_rendered_config_matches_the_wire_and_the_settings(tmp_path: Path) -> None:
    for entry in ENTRIES:
        config, wire = parse(render(entry)["config.pbtxt"]), TASK_TENSORS[entry.task]
        assert (config.name, config.backend) == (entry.name, "python")
        assert config.max_batch_size == wire.max_batch_size
        assert config.model_transaction_policy.decoupled == wire.decoupled
        taken, own = (
            [s for s in specs if s.needs is None or s.needs in entry.dims]
            for specs in (wire.inputs, wire.outputs)
        )
        assert (len(own) == len(wire.outputs)) == (entry.task != "embed" or entry.name == "bge-m3")
        for specs, tensors in ((taken, config.input), (own, config.output)):
            assert [s.name for s in specs] == [t.name for t in tensors]
            for spec, tensor in zip(specs, tensors, strict=True):
                kind = model_config_pb2.DataType.Name(tensor.data_type)
                assert kind == f"TYPE_{spec.dtype}"
                dims = [entry.dims[d] if isinstance(d, str) else d for d in spec.dims]
                assert list(tensor.dims) == dims
        assert [t.optional for t in config.input] == [s.optional for s in taken]
        parameters = {k: v.string_value for k, v in config.parameters.items()}
        assert Settings.read(parameters, {}).model_id == entry.model_id
    write_repository(ENTRIES, tmp_path)
    served = read_repository(tmp_path)
    assert sorted((s.name, s.task, s.model_id) for s in served) == sorted(
        (e.name, e.task, e.model_id) for e in ENTRIES
    )


def test_awkward_values_survive_rendering(tmp_path: Path) -> None:
    """Quotes, backslashes and non-ASCII text reach the backend as they were given."""
    folder = checkpoint(tmp_path / 'we"ird \\ é', architectures=["BertModel"], model_type="bert")
    prompt = 'say: "é\\n" {x}'
    settings = {"default_prompt": prompt, "max_client_batch_size": "7", "device": "cuda:1"}
    entry = entry_for(str(folder), read_model(folder), name="x", revision="v1", settings=settings)
    files = render(entry)
    config = parse(files["config.pbtxt"])
    assert config.parameters["model_id"].string_value == str(folder)
    assert config.parameters["default_prompt"].string_value == prompt
    assert config.parameters["revision"].string_value == "v1"
    assert config.max_batch_size == 7
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_MODEL
    compile(files["1/model.py"], "model.py", "exec")


CASES: dict[str, tuple[list[str], str, dict[str, Any], str]] = {
    "BAAI/bge-base-en-v1.5": (["BertModel"], "bert", {}, "embed"),
    "intfloat/multilingual-e5-large": (["XLMRobertaModel"], "xlm-roberta", {}, "embed"),
    "camembert-base": (["CamembertForMaskedLM"], "camembert", {}, "embed"),
    "jinaai/jina-embeddings-v2-base-en": (["JinaBertForMaskedLM"], "bert", {}, "embed"),
    "roberta-base": (["RobertaModel"], "roberta", {}, "embed"),
    "no-architectures": ([], "bert", {}, "embed"),
    "BAAI/bge-reranker-base": (
        ["XLMRobertaForSequenceClassification"], "xlm-roberta",
        {"id2label": {"0": "LABEL_0"}}, "rerank",
    ),
    "num-labels": (["BertForSequenceClassification"], "bert", {"num_labels": 1}, "rerank"),
    "SamLowe/roberta-base-go_emotions": (
        ["RobertaForSequenceClassification"], "roberta",
        {"id2label": {str(i): f"l{i}" for i in range(28)}}, "classify",
    ),
    "default-labels": (["BertForSequenceClassification"], "bert", {}, "classify"),
    "llama": (["LlamaForCausalLM"], "llama", {}, "generate"),
    "bigcode/starcoder": (["GPTBigCodeForCausalLM"], "gpt_bigcode", {}, "generate"),
    "bigcode/santacoder": (["GPT2LMHeadCustomModel"], "gpt2", {}, "generate"),
    "tiiuae/falcon-7b": (["RWForCausalLM"], "RefinedWebModel", {}, "generate"),
    "tiiuae/falcon-40b": (["RWForCausalLM"], "RefinedWeb", {}, "generate"),
    "microsoft/phi-1_5": (["MixFormerSequentialForCausalLM"], "mixformer-sequential", {},
                          "generate"),
    "bigscience/bloom": (["BloomModel"], "bloom", {}, "generate"),
    "mosaicml/mpt-7b": (["MPTForCausalLM"], "mpt", {}, "generate"),
    "facebook/opt-125m": (["OPTForCausalLM"], "opt", {}, "generate"),
    "facebook/bart-large-cnn": (["BartForConditionalGeneration"], "bart", {}, "generate"),
    "facebook/nllb-200-distilled-600M": (
        ["M2M100ForConditionalGeneration"], "m2m_100", {}, "generate"
    ),
    "facebook/bart-large-xsum": (["BartForConditionalGeneration"], "bart", {}, "generate"),
    "sshleifer/distilbart-cnn-12-6": (["BartForConditionalGeneration"], "bart", {}, "generate"),
    "facebook/m2m100_418M": (["M2M100ForConditionalGeneration"], "m2m_100", {}, "generate"),
    "facebook/mbart-large-50-many-to-many-mmt": (
        ["MBartForConditionalGeneration"], "mbart", {}, "generate"
    ),
    "facebook/nllb-200-1.3B": (["M2M100ForConditionalGeneration"], "m2m_100", {}, "generate"),
    "facebook/nllb-200-3.3B": (["M2M100ForConditionalGeneration"], "m2m_100", {}, "generate"),
    "Helsinki-NLP/opus-mt-en-de": (["MarianMTModel"], "marian", {}, "generate"),
    "Helsinki-NLP/opus-mt-en-mul": (["MarianMTModel"], "marian", {}, "generate"),
    "Helsinki-NLP/opus-mt-mul-en": (["MarianMTModel"], "marian", {}, "generate"),
    "google/flan-t5-base": (["T5ForConditionalGeneration"], "t5", {}, "generate"),
}  # fmt: skip


@pytest.mark.parametrize("model_id", CASES)
def test_task_is_read_from_the_config(model_id: str, tmp_path: Path) -> None:
    architectures, model_type, extra, task = CASES[model_id]
    folder = checkpoint(tmp_path, architectures=architectures, model_type=model_type, **extra)
    assert read_model(folder).task == task


def test_labels_are_in_the_order_of_the_logits(tmp_path: Path) -> None:
    names = {str(i): f"label {i}" for i in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    folder = checkpoint(
        tmp_path, architectures=["BertForSequenceClassification"], model_type="bert", id2label=names
    )
    assert read_model(folder).labels == tuple(f"label {i}" for i in range(11))


def test_modules_decide_over_the_architecture(tmp_path: Path) -> None:
    prefix = "sentence_transformers.models"
    trunk = {"type": f"{prefix}.Transformer", "path": ""}
    pooling = {"type": f"{prefix}.Pooling", "path": "1_Pooling"}
    dense = {"type": f"{prefix}.Dense", "path": "2_Dense"}
    splade = {"type": "sentence_transformers.sparse_encoder.models.SpladePooling", "path": ""}
    embedder = checkpoint(
        tmp_path / "a", [trunk, pooling, dense], architectures=["BertForMaskedLM"],
        model_type="bert",
    )  # fmt: skip
    (embedder / "1_Pooling").mkdir()
    (embedder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    checkpoint(embedder / "2_Dense", in_features=32, out_features=12)
    checkpoint(embedder / "3_Dense", in_features=32, out_features=9)
    assert read_model(embedder).task == "embed"
    assert read_model(embedder).embedding_size == 12
    assert read_model(embedder, dense_path="3_Dense").embedding_size == 9
    sparse = checkpoint(
        tmp_path / "b", [trunk, splade], architectures=["BertForMaskedLM"], model_type="bert"
    )
    assert read_model(sparse).task == "sparse"
    assert read_model(sparse, task="embed").task == "embed"


def test_the_families_that_are_named_have_files() -> None:
    assert set(ENCODER_NAMES) == set(ENCODERS)


def test_unusable_configs_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_model(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="expected an object"):
        read_model(tmp_path)
    checkpoint(tmp_path, architectures=["Wav2Vec2Model"], model_type="wav2vec2")
    with pytest.raises(UnsupportedModel, match=r"Wav2Vec2Model.*--task"):
        read_model(tmp_path)
    with pytest.raises(UnsupportedModel, match="'paint' is not served"):
        render(entry_for("x", read_model(tmp_path, task="paint"), name="x"))


@pytest.mark.parametrize(
    ("model_id", "name"),
    [
        ("sentence-transformers/all-MiniLM-L6-v2", "all-minilm-l6-v2"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("/models/My Model (v2)/", "my-model--v2"),
        ("/hub/models--BAAI--bge-base-en-v1.5/snapshots/0123abcd", "bge-base-en-v1.5"),
        ("über", "ber"),
        ("/", "model"),
    ],
)
def test_entry_names(model_id: str, name: str) -> None:
    assert entry_name(model_id) == name
    assert entry_name(model_id, {name}) == f"{name}-2"
    assert entry_name(model_id, {name, f"{name}-2"}) == f"{name}-3"


def test_repository_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        read_repository(tmp_path / "absent")
    with pytest.raises(ConfigError, match="no <entry>"):
        read_repository(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.pbtxt").write_text("nonsense {")
    with pytest.raises(ConfigError, match=r"x/config\.pbtxt"):
        read_repository(tmp_path)
    (tmp_path / "x" / "config.pbtxt").write_text('backend: "python"\ninput { name: "a" }')
    assert [(s.name, s.task) for s in read_repository(tmp_path)] == [("x", None)]
