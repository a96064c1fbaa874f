"""What a checkpoint is and whether it is served: one decision, for info, for entries, for servers.

Each refused folder looks like one that is served, and was.
"""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from engines import engine
from lookalikes import BERT, JUDGE, LLAMA, POOLING, QWEN3, STABLELM, TRUNK, folder_of
from refused_folders import REFUSED
from tiny.checkpoint import enliven

from atoll.catalogue import ServedModel
from atoll.cli.catalogue import info
from atoll.cli.choose import entry_of
from atoll.cli.output import _detected
from atoll.config import Settings
from atoll.encoders.classifier import Classifier
from atoll.encoders.embedder import Embedder
from atoll.encoders.multi_vector_encoder import MultiVectorEncoder
from atoll.encoders.sparse_embedder import SparseEmbedder
from atoll.errors import AtollError, ConfigError, UnsupportedModel
from atoll.models import families
from atoll.models.detect import decide, read_model
from atoll.serving.engine_loader import load_engine

HUB = sorted((Path(__file__).parents[1] / "data" / "hub_configs").glob("*.json"))


def facts_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    info(str(folder), as_json=True)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def load(folder: Path, task: str) -> None:
    """As the server does, up to the weights."""
    settings = Settings(model_id=str(folder))
    if task == "generate":
        load_engine(settings, folder)
    else:
        encoders = {
            "embed": Embedder, "sparse": SparseEmbedder, "multi_vector": MultiVectorEncoder,
        }  # fmt: skip
        encoders.get(task, Classifier)(folder, settings)


@pytest.mark.parametrize("name", REFUSED)
def test_what_looks_like_another_is_refused_by_name(name: str, tmp_path: Path) -> None:
    """They were served: taggers as embedders by CLS, rerankers as generators."""
    config, files, message = REFUSED[name]
    folder = folder_of(tmp_path, config, files)
    with pytest.raises((ConfigError, UnsupportedModel), match=message) as refusal:
        decide(folder, Settings(model_id=str(folder)))
    with pytest.raises(AtollError) as told:
        info(str(folder), as_json=True)
    assert str(told.value) == str(refusal.value)
    is_encoder = config["model_type"] in ("bert", "roberta")
    task = "embed" if is_encoder else "generate"
    task = "multi_vector" if "'multi_vector'" in message else task
    with pytest.raises(AtollError, match=message):
        load(folder, task)


def native_only(name: str) -> bool:
    return "native" in name


@pytest.mark.parametrize("name", [n for n in REFUSED if not native_only(n)])
def test_no_entry_is_written_for_it(name: str, tmp_path: Path) -> None:
    config, files, message = REFUSED[name]
    with pytest.raises((ConfigError, UnsupportedModel), match=message):
        entry_of(str(folder_of(tmp_path, config, files)), {})


@pytest.mark.parametrize(
    "name",
    ["a chooser", "ColBERT by what it was made from", "a reranker by its card", "a bare trunk"],
)
def test_a_named_task_is_what_is_meant(name: str, tmp_path: Path) -> None:
    config, files, _ = REFUSED[name]
    task = "embed" if config["model_type"] == "bert" else "generate"
    folder = folder_of(tmp_path, config, files)
    assert decide(folder, Settings(model_id="x", task=task)).task == task


@pytest.mark.parametrize("where", ["Old-Reranker-1B", "models--a--My-Reranker/snapshots/01ab"])
def test_a_reranker_by_its_name_alone(where: str, tmp_path: Path) -> None:
    """Which text it is asked with is not to be guessed."""
    folder = tmp_path / where
    folder.mkdir(parents=True)
    with pytest.raises(UnsupportedModel, match="Reranker.* says that this is a reranker.*set rer"):
        read_model(folder_of(folder, QWEN3))
    assert read_model(folder, task="generate").task == "generate"
    settings = Settings(model_id="x", reranker_template="qwen3-reranker")
    assert decide(folder, settings).task == "rerank"
    # It may be meant for another model of the server.
    other = folder_of(tmp_path / "other", QWEN3)
    found = decide(other, settings)
    assert found.task == "generate" and "reranker_template is" in found.notes[-1]


SCORED = {"architectures": ["Qwen3ForSequenceClassification"]}


@pytest.mark.parametrize(("where", "config", "files", "task"), [
    ("Qwen3-Reranker-0.6B", QWEN3, {}, "rerank"),
    ("models--a--bge-reranker-v2-gemma/snapshots/01ab", QWEN3, {}, "rerank"),
    ("a", {**QWEN3, "_name_or_path": "Qwen/Qwen3-Reranker-0.6B"}, {}, "rerank"),
    ("a", QWEN3, {"chat_template.jinja": JUDGE}, "rerank"),
    ("a", QWEN3, {"tokenizer_config.json": {"chat_template": JUDGE}}, "rerank"),
    ("mxbai-rerank-large-v2", {**QWEN3, **SCORED, "num_labels": 1}, {}, "rerank"),
    ("a", {**QWEN3, **SCORED}, {}, "classify"),
    ("a", {**LLAMA, "architectures": ["LlamaForSequenceClassification"]}, {}, "classify"),
])  # fmt: skip
def test_decoders_that_score(
    where: str, config: dict[str, Any], files: dict[str, Any], task: str, tmp_path: Path
) -> None:
    """By their chat template or the name of a published family, or with a head of their own."""
    folder = tmp_path / where
    folder.mkdir(parents=True)
    settings = Settings(model_id=str(folder_of(folder, config, files)))
    assert decide(folder, settings).task == entry_of(str(folder), {}).task == task


def test_a_sparse_embedder_of_documents_alone(tmp_path: Path) -> None:
    """Older revisions of opensearch-neural-sparse-encoding-doc-v3-distill have no modules.json."""
    config, files, message = REFUSED["an embedder of documents"]
    folder = folder_of(tmp_path, config, files)
    with pytest.raises(UnsupportedModel, match=message):
        decide(folder, Settings(model_id="x", task="sparse"))


@pytest.mark.parametrize("path", HUB, ids=lambda path: path.stem)
def test_published_configs(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them run on our own files, and info says so."""
    config = json.loads(path.read_text())
    folder, task = folder_of(tmp_path, config), "generate"
    if config["model_type"] in families.SPEECH:
        task, told = "transcribe", {"feature_size": config["num_mel_bins"]}
        (folder / "preprocessor_config.json").write_text(json.dumps(told))
        told = {"eos_token_id": 50257, "no_timestamps_token_id": 50364}
        (folder / "generation_config.json").write_text(json.dumps(told))
    elif config["model_type"] in families.ENCODERS:
        task, (name, *_) = "embed", config.get("architectures", [""])
        if name.endswith("ForSequenceClassification"):
            task = "rerank" if len(config["id2label"]) == 1 else "classify"
        elif name.endswith("ForTokenClassification"):
            task = "token_classify"
    found = decide(folder, Settings(model_id=str(folder)))
    assert (found.task, found.runs_on) == (task, "native")
    facts = facts_of(folder, capsys)
    assert facts["task"] == task and facts["implementation"].startswith("atoll.models.")
    assert "fallback" not in facts["implementation"]
    assert entry_of(str(folder), {}).task == task


def test_modules_decide_over_a_classifiers_head(tmp_path: Path) -> None:
    """An embedder trained on a classifier's trunk was refused as a classifier."""
    config = hf.BertConfig(**BERT, num_labels=3)
    model = hf.BertForSequenceClassification(config).eval()
    enliven(model)
    model.save_pretrained(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([TRUNK, POOLING]))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    found = read_model(tmp_path)
    assert (found.task, found.pooling, found.notes) == ("embed", "mean", ())
    assert Embedder(tmp_path, Settings(model_id=str(tmp_path))).dimensions == BERT["hidden_size"]


def test_an_embedders_further_head_is_known(tmp_path: Path) -> None:
    """gte-multilingual-base, whose file has a head for sparse vectors beside the dense one's."""
    path = next(path for path in HUB if path.stem.endswith("gte-multilingual-base"))
    files = {"modules.json": [TRUNK, POOLING], "1_Pooling/config.json": {"pooling_mode": "cls"}}
    folder = folder_of(tmp_path, json.loads(path.read_text()), files)
    found = decide(folder, Settings(model_id=str(folder)))
    assert (found.task, found.pooling) == ("embed", "cls")
    assert (found.heads, found.notes) == (("sparse_linear",), ())


@pytest.mark.parametrize(
    ("settings", "pooling", "is_guessed"),
    [({}, "cls", True), ({"pooling": "mean"}, "mean", False), ({"pooling": "cls"}, "cls", False)],
)
def test_a_guessed_pooling_is_told_everywhere(
    settings: dict[str, str], pooling: str, is_guessed: bool, tmp_path: Path,
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A folder without modules.json, or one that only transformers filled, was pooled by CLS."""
    hf.BertModel(hf.BertConfig(**BERT)).save_pretrained(tmp_path)
    for name, value in settings.items():
        monkeypatch.setenv(f"ATOLL_{name.upper()}", value)
    with caplog.at_level(logging.WARNING):
        encoder = Embedder(tmp_path, Settings.read({"model_id": str(tmp_path)}))
    table = _detected(ServedModel("x", "embed", {"model_id": str(tmp_path)}), tmp_path)
    facts = facts_of(tmp_path, capsys)
    assert encoder.spec.pooling == table.pooling == facts["pooling"] == pooling
    texts = [caplog.text, " ".join(table.notes), " ".join(facts["notes"])]
    said = [f"pooling '{pooling}' is a guess" in text and "--pooling" in text for text in texts]
    assert said == [is_guessed] * 3


def test_what_transformers_runs_is_told_everywhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """info named native kernels for it."""
    hf.StableLmForCausalLM(hf.StableLmConfig(**STABLELM)).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 1.0}')
    with caplog.at_level(logging.WARNING), engine(tmp_path):
        pass
    table = _detected(ServedModel("x", "generate", {"model_id": str(tmp_path)}), tmp_path)
    facts = facts_of(tmp_path, capsys)
    assert "transformers' StableLmForCausalLM" in facts["implementation"] and "kernels" not in facts
    assert table.runs_on == "transformers' StableLmForCausalLM"
    assert facts["notes"] == list(table.notes)
    for note in table.notes:
        assert note in caplog.text
    assert "best effort" in table.notes[0] and table.notes[-1].endswith("say: temperature 0.6")


def test_a_dtype_of_states_that_the_model_has_none_of_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was ignored in silence. It may be meant for another model of the server."""
    hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING), engine(tmp_path, state_dtype="bfloat16"):
        pass
    assert "state_dtype is 'bfloat16', which has no effect" in caplog.text


def test_banned_tokens_never_come(tmp_path: Path) -> None:
    """suppress_tokens and bad_words_ids of generation_config.json were not looked at."""
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)).eval()
    enliven(model)
    model.save_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    first = int(model(ids).logits[0, -1].argmax())
    keys = {
        "suppress_tokens": [first], "bad_words_ids": [[3], [first], [2], [5, 6]],
        "begin_suppress_tokens": [8], "forced_eos_token_id": 2, "eos_token_id": 2, "max_length": 9,
    }  # fmt: skip
    (tmp_path / "generation_config.json").write_text(json.dumps(keys))
    with engine(tmp_path) as loaded:
        limits = loaded.limits
        assert limits.banned_tokens == tuple(sorted({3, first}))
        assert (limits.bad_words, limits.begin_suppress_tokens) == (((5, 6),), (8,))
        # A decoder's max_length counts its prompt, and is left to requests.
        assert (limits.forced_eos_token_id, limits.max_length) == (2, None)


def test_sessions_and_ensembles_are_called_what_they_are() -> None:
    """The table called the entries of conversations "not ours"."""
    kinds = {
        ServedModel("a", "embed").kind: "embed",
        ServedModel("b", None, {"generator": "x"}).kind: "conversations with x",
        ServedModel("c", None, {"embedder": "x", "reranker": "y"}).kind: "x, then y",
        ServedModel("g", None, {"sparse_embedder": "x", "reranker": "y"}).kind: "x, then y",
        ServedModel("d", None, {"model_id": "x"}).kind: "tokens",
        ServedModel("e", None, is_ensemble=True).kind: "ensemble",
        ServedModel("f", None).kind: "not ours",
    }
    assert all(found == wanted for found, wanted in kinds.items())


def test_a_pipeline_waits_for_the_models_that_it_names() -> None:
    """By this, whoever watches the server ends it with one of them."""
    named = {"embedder": "a", "sparse_embedder": "b", "reranker": "c", "k": "60"}
    assert ServedModel("x", None, named).asked == {"a", "b", "c"}
    assert ServedModel("x", None, {"sparse_embedder": "b"}).asked == {"b"}
    assert ServedModel("x", "embed", named).asked == frozenset()
