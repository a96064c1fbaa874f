"""Encoders in GGUF files: their vectors, their pooling, their tokenizers, a reranker."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import gguf_converted as to
from tiny.checkpoint import Variant, write
from tiny.encoders import TRUNKS, VOCAB, JinaReference, classifiers
from tiny.gguf_converted import Converted, write_converted
from tiny.gguf_files import FAMILIES as FAMILIES_OF_DECODERS
from tiny.gguf_files import VARIANTS as DECODERS
from tiny.gguf_writing import write_gguf
from tiny.rotary_encoders import NOMIC_OLD, nomic_bert
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from atoll.config import Settings
from atoll.encoders.classifier import Classifier, ScoreOptions
from atoll.encoders.embedder import Embedder, EmbedOptions
from atoll.encoders.packer import Item, batch_of
from atoll.errors import UnsupportedModel
from atoll.models.detect import decide
from atoll.text.sentencepiece import convert
from atoll.weights.gguf.convert import prepare
from atoll.weights.gguf.tokenizer import build_tokenizer

CPU = torch.device("cpu")
SETTINGS = Settings(dtype="float32", device="cpu")
MEAN, CLS, LAST, RANK = 1, 2, 3, 4
BERT: to.Keys = {
    "context_length": lambda c: c["max_position_embeddings"] - _offset(c),
    "embedding_length": "hidden_size", "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size", "attention.head_count": "num_attention_heads",
    "attention.layer_norm_epsilon": "layer_norm_eps", "attention.causal": lambda c: False,
    "pooling_type": lambda c: CLS,
}  # fmt: skip
NOMIC: to.Keys = {
    **BERT, "context_length": "n_positions", "embedding_length": "n_embd",
    "block_count": "n_layer", "feed_forward_length": "n_inner", "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon", "rope.freq_base": "rotary_emb_base",
    "pooling_type": lambda c: MEAN,
}  # fmt: skip
MODERN: to.Keys = {
    **BERT, "attention.layer_norm_epsilon": "norm_eps",
    "attention.sliding_window": "local_attention", "rope.freq_base": "global_rope_theta",
    "attention.sliding_window_pattern": "global_attn_every_n_layers",
    "rope.freq_base_swa": "local_rope_theta", "rope.scaling.type": lambda c: "none",
    "vocab_size": "vocab_size", "hidden_activation": "hidden_activation",
}  # fmt: skip
_PLAIN = {k: v for k, v in NOMIC_OLD.items() if k != "rotary_scaling_factor"}
_NOMIC = Variant(
    "nomic", lambda: nomic_bert(rope_parameters={"rope_theta": 500.0, "rope_type": "default"}),
    config={**_PLAIN, "max_trained_positions": 70},
)  # fmt: skip
_TRUNKS = {variant.name: variant for variant in TRUNKS}
FAMILIES = {
    "bert": (_TRUNKS["bert"], Converted("bert", BERT, to.bert, is_encoder=True)),
    "xlm-roberta": (_TRUNKS["xlm-roberta"], Converted("bert", BERT, to.bert, is_encoder=True)),
    "nomic": (_NOMIC, Converted("nomic-bert", NOMIC, to.bert, is_encoder=True)),
    "modernbert": (
        _TRUNKS["modernbert-old"], Converted("modern-bert", MODERN, to.bert, is_encoder=True)
    ),
}  # fmt: skip
IDS = torch.randint(5, VOCAB, (17,), generator=torch.Generator().manual_seed(5)).tolist()


def _offset(c: Any) -> int:
    return c["pad_token_id"] + 1 if "roberta" in c["model_type"] else 0


def _hidden(folder: Path, ids: list[int]) -> torch.Tensor:
    item = Item(np.array(ids, np.int32), lambda result: None, None,
                EmbedOptions(return_token_embeddings=True))  # fmt: skip
    with torch.inference_mode():
        (found,) = Embedder(folder, SETTINGS)(batch_of([item], CPU), [item])
    return torch.from_numpy(found.token_vectors)


def _prepared(hub: Path, converted: Converted) -> Path:
    folder = hub.with_name("folder")
    write_converted(hub, hub.with_name("x.gguf"), converted)
    folder.mkdir()
    prepare(hub.with_name("x.gguf"), folder)
    return folder


def _close(found: torch.Tensor, expected: torch.Tensor) -> None:
    limit = 2e-5 * max(1.0, float(expected.std(correction=0)))
    assert float((found.double() - expected.double()).abs().max()) <= limit


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_an_encoder_is_what_its_file_holds(name: str, tmp_path: Path) -> None:
    variant, converted = FAMILIES[name]
    reference = write(variant, tmp_path / "hub").model.double()
    folder = _prepared(tmp_path / "hub", converted)
    _close(_hidden(folder, IDS), reference(torch.tensor([IDS])).last_hidden_state[0])
    decision = decide(folder, SETTINGS)
    assert (decision.task, decision.pooling) == ("embed", "mean" if name == "nomic" else "cls")


def _gate_apart(name: str, x: torch.Tensor, c: Any) -> to.Tensors:
    """As files of 2024."""
    if "gated_layers" not in name:
        yield from to.bert(name, x, c)
        return
    for part, rows in zip(("gated_layers_w", "gated_layers_v"), x.chunk(2), strict=True):
        yield name.replace("gated_layers", part), rows


@pytest.mark.parametrize("change", [to.bert, _gate_apart])
def test_jina_equals_its_description(change: Any, tmp_path: Path) -> None:
    reference = JinaReference(4)
    (tmp_path / "hub").mkdir()
    save_file(reference.tensors, tmp_path / "hub" / "model.safetensors")
    (tmp_path / "hub" / "config.json").write_text(json.dumps(reference.config))
    folder = _prepared(tmp_path / "hub", Converted("jina-bert-v2", BERT, change, is_encoder=True))
    _close(_hidden(folder, IDS), reference.hidden(IDS))


@pytest.mark.parametrize("kind", ["xlm-roberta", "modernbert-cls"])
@torch.inference_mode()
def test_a_classifier_ranks(kind: str, tmp_path: Path) -> None:
    variant = next(v for v in classifiers(1) if v.name == kind)
    reference = write(variant, tmp_path / "hub").model.double()
    architecture, keys = ("modern-bert", MODERN) if "modern" in kind else ("bert", BERT)
    keys = {**keys, "pooling_type": lambda c: RANK}
    if "modern" in kind:
        ropes = {"rope.freq_base": "full_attention", "rope.freq_base_swa": "sliding_attention"}
        keys |= {
            key: lambda c, name=name: c["rope_parameters"][name]["rope_theta"]
            for key, name in ropes.items()
        }
        keys["attention.sliding_window_pattern"] = lambda c: 3
    folder = _prepared(tmp_path / "hub", Converted(architecture, keys, to.bert, is_encoder=True))
    assert decide(folder, SETTINGS).task == "rerank"
    item = Item(np.array(IDS, np.int32), lambda result: None, None, ScoreOptions(raw=True))
    (found,) = Classifier(folder, SETTINGS)(batch_of([item], CPU), [item])
    _close(torch.tensor(found.logits), reference(torch.tensor([IDS])).logits[0])


def test_a_decoder_that_pools_embeds(tmp_path: Path) -> None:
    """Qwen3-Embedding takes the last token, which its tokenizer adds."""
    written = FAMILIES_OF_DECODERS["qwen3-old"]
    keys = {**written.keys, "pooling_type": lambda c: LAST}
    write(DECODERS["qwen3-old"], tmp_path / "hub")
    write_gguf(
        tmp_path / "hub", tmp_path / "x.gguf", replace(written, keys=keys), lambda name: "F16"
    )
    (tmp_path / "folder").mkdir()
    prepare(tmp_path / "x.gguf", tmp_path / "folder")
    decision = decide(tmp_path / "folder", SETTINGS)
    assert (decision.task, decision.pooling) == ("embed", "last-token")
    keys["pooling_type"] = lambda c: RANK
    write_gguf(tmp_path / "hub", tmp_path / "y.gguf", replace(written, keys=keys), lambda _: "F16")
    with pytest.raises(UnsupportedModel, match="pooling_type is 4"):
        prepare(tmp_path / "y.gguf", tmp_path / "folder")


TEXTS = [
    "", "Hello, World!", "  two spaces  in front\tand\nbehind ", "naïve café ﬁ ½ 12345",
    "中文字符 and 😀", "x" * 120, "[MASK] is it", "don't",
]  # fmt: skip
CORPUS = ["the quick brown fox jumps over the lazy dog hello world naive cafe in front is it"] * 9
SENTENCEPIECE = Path(__file__).parents[1] / "data" / "sentencepiece"


@pytest.mark.parametrize("is_cased", [False, True])
def test_word_pieces(is_cased: bool) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    original = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    original.normalizer = normalizers.BertNormalizer(lowercase=not is_cased)
    original.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    corpus = [*CORPUS, *(["Hello World"] * 5 if is_cased else ())]
    original.train_from_iterator(corpus, trainers.WordPieceTrainer(
        vocab_size=120, special_tokens=special, show_progress=False
    ))  # fmt: skip
    original.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )  # fmt: skip
    vocab = original.get_vocab()
    tokens = sorted(vocab, key=lambda token: vocab[token])
    marked = [t if t in special else t[2:] if t.startswith("##") else f"\u2581{t}" for t in tokens]
    metadata = {
        "tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": marked,
        "tokenizer.ggml.token_type": [3 if t in special else 1 for t in tokens],
        "tokenizer.ggml.cls_token_id": 2, "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.unknown_token_id": 1,
    }  # fmt: skip
    found = build_tokenizer(metadata, "bert", "x.gguf", is_encoder=True)
    for text in TEXTS:
        assert found.encode(text).ids == original.encode(text).ids, text
    for name in ("ids", "type_ids"):
        one, other = (getattr(t.encode("hello", "fox dog"), name) for t in (found, original))
        assert one == other


@pytest.mark.parametrize("kind", ["xlm-roberta", "t5"])
def test_unigrams(kind: str) -> None:
    """Texts are normalized as the file says; pairs of XLM-RoBERTa have two ends between them."""
    is_encoder = kind == "xlm-roberta"
    original, _ = convert(SENTENCEPIECE / f"{kind}.model", kind, {})
    state = json.loads(original.to_str())
    vocab, steps = state["model"]["vocab"], state["normalizer"]["normalizers"]
    charsmap = next(s["precompiled_charsmap"] for s in steps if s["type"] == "Precompiled")
    tokens = [f"[PAD{i}]" if "extra_id" in token else token for i, (token, _) in enumerate(vocab)]
    kinds = {"<unk>": 2, **dict.fromkeys(("<s>", "</s>", "<pad>", "<mask>"), 3)}
    metadata = {
        "tokenizer.ggml.model": "t5", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [score for _, score in vocab],
        "tokenizer.ggml.token_type": [
            5 if token.startswith("[PAD") else kinds.get(token, 1) for token in tokens
        ],
        "tokenizer.ggml.eos_token_id": original.token_to_id("</s>"),
        "tokenizer.ggml.unknown_token_id": original.token_to_id("<unk>"),
        "tokenizer.ggml.remove_extra_whitespaces": True,
        "tokenizer.ggml.precompiled_charsmap": list(base64.b64decode(charsmap)),
    }  # fmt: skip
    if is_encoder:
        metadata["tokenizer.ggml.bos_token_id"] = 0
    found = build_tokenizer(metadata, "bert" if is_encoder else "t5", "x.gguf", is_encoder)
    texts = [*json.loads((SENTENCEPIECE / "ids.json").read_text())["texts"], "a <extra_id_0> b"]
    for text in texts if kind == "t5" else texts[:-1]:
        assert found.encode(text).ids == original.encode(text).ids, text
    if is_encoder:
        assert found.encode("fox", "dog").ids == original.encode("fox", "dog").ids
