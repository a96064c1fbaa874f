"""Embedders, rerankers and classifiers of texts and tokens that come with an entry."""

from collections.abc import Mapping
from typing import NamedTuple

_E5 = {"query": "query: ", "passage": "passage: "}
_BGE = {"query": "Represent this sentence for searching relevant passages: "}
# The task of the card's example; the setting prompts adds others.
_INSTRUCT = {
    "query": "Instruct: Given a web search query, retrieve relevant passages that answer the query"
    "\nQuery: "
}
_NOMIC = {
    name: f"{name}: "
    for name in ("search_query", "search_document", "classification", "clustering")
}


class EncoderEntry(NamedTuple):
    """One checkpoint. ``size`` is the width of its vectors, or its number of labels.

    pooling and prompts come from the model card: not every repository has them in its files. Those
    of decoders do: modules.json and config_sentence_transformers.json. heads: those of
    ``weights.token_heads`` that it has. takes_images: besides texts.
    """

    name: str
    model_id: str
    task: str
    model_type: str
    size: int
    pooling: str | None = None
    prompts: Mapping[str, str] = {}
    revision: str | None = None
    heads: tuple[str, ...] = ()
    takes_images: bool = False


ENCODERS = (
    EncoderEntry(
        "all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2", "embed", "bert", 384
    ),
    EncoderEntry(
        "all-mpnet-base-v2", "sentence-transformers/all-mpnet-base-v2", "embed", "mpnet", 768,
        "mean",
    ),
    EncoderEntry("bert-base-ner", "dslim/bert-base-NER", "token_classify", "bert", 9),
    EncoderEntry("bge-base-en-v1.5", "BAAI/bge-base-en-v1.5", "embed", "bert", 768, "cls", _BGE),
    EncoderEntry("bge-large-en-v1.5", "BAAI/bge-large-en-v1.5", "embed", "bert", 1024, "cls", _BGE),
    EncoderEntry(
        "bge-m3", "BAAI/bge-m3", "embed", "xlm-roberta", 1024, "cls",
        heads=("sparse_linear", "colbert_linear"),
    ),
    EncoderEntry("bge-small-en-v1.5", "BAAI/bge-small-en-v1.5", "embed", "bert", 384, "cls", _BGE),
    EncoderEntry(
        "answerai-colbert-small-v1", "answerdotai/answerai-colbert-small-v1", "multi_vector",
        "bert", 96,
    ),
    EncoderEntry(
        "bge-reranker-base", "BAAI/bge-reranker-base", "rerank", "xlm-roberta", 1,
        revision="refs/pr/5",
    ),
    EncoderEntry(
        "bge-reranker-large", "BAAI/bge-reranker-large", "rerank", "xlm-roberta", 1,
        revision="refs/pr/4",
    ),
    EncoderEntry("bge-reranker-v2-gemma", "BAAI/bge-reranker-v2-gemma", "rerank", "gemma", 1),
    EncoderEntry("bge-reranker-v2-m3", "BAAI/bge-reranker-v2-m3", "rerank", "xlm-roberta", 1),
    EncoderEntry(
        "deberta-v3-base-prompt-injection-v2", "protectai/deberta-v3-base-prompt-injection-v2",
        "classify", "deberta-v2", 2,
    ),
    EncoderEntry(
        "distilbert-sst2", "distilbert/distilbert-base-uncased-finetuned-sst-2-english", "classify",
        "distilbert", 2,
    ),
    EncoderEntry(
        "clip-vit-base-patch32", "openai/clip-vit-base-patch32", "embed", "clip", 512,
        takes_images=True,
    ),
    EncoderEntry("colbertv2.0", "colbert-ir/colbertv2.0", "multi_vector", "bert", 128),
    EncoderEntry(
        "distilcamembert-base-sentiment", "cmarkea/distilcamembert-base-sentiment", "classify",
        "camembert", 5,
    ),
    EncoderEntry("e5-base-v2", "intfloat/e5-base-v2", "embed", "bert", 768, "mean", _E5),
    EncoderEntry("e5-large-v2", "intfloat/e5-large-v2", "embed", "bert", 1024, "mean", _E5),
    EncoderEntry(
        "e5-mistral-7b-instruct", "intfloat/e5-mistral-7b-instruct", "embed", "mistral", 4096
    ),
    EncoderEntry(
        "embeddinggemma-300m", "google/embeddinggemma-300m", "embed", "gemma3_text", 768
    ),
    EncoderEntry("ember-v1", "llmrails/ember-v1", "embed", "bert", 1024, "cls"),
    EncoderEntry("gte-base", "thenlper/gte-base", "embed", "bert", 768, "mean"),
    EncoderEntry("gte-large", "thenlper/gte-large", "embed", "bert", 1024, "mean"),
    EncoderEntry(
        "gte-modernbert-base", "Alibaba-NLP/gte-modernbert-base", "embed", "modernbert", 768, "cls"
    ),
    EncoderEntry(
        "gte-multilingual-base", "Alibaba-NLP/gte-multilingual-base", "embed", "new", 768, "cls",
        heads=("sparse_linear",),
    ),
    EncoderEntry(
        "gte-multilingual-reranker-base", "Alibaba-NLP/gte-multilingual-reranker-base", "rerank",
        "new", 1,
    ),
    EncoderEntry(
        "gte-reranker-modernbert-base", "Alibaba-NLP/gte-reranker-modernbert-base", "rerank",
        "modernbert", 1,
    ),
    EncoderEntry(
        "gte-qwen2-1.5b-instruct", "Alibaba-NLP/gte-Qwen2-1.5B-instruct", "embed", "qwen2", 1536
    ),
    EncoderEntry(
        "jina-embeddings-v2-base-en", "jinaai/jina-embeddings-v2-base-en", "embed", "bert", 768,
        "mean",
    ),
    EncoderEntry(
        "jina-embeddings-v2-small-en", "jinaai/jina-embeddings-v2-small-en", "embed", "bert", 512,
        "mean",
    ),
    EncoderEntry(
        "modernbert-embed-base", "nomic-ai/modernbert-embed-base", "embed", "modernbert", 768,
        "mean", _NOMIC,
    ),
    EncoderEntry(
        "multi-qa-mpnet-base-dot-v1", "sentence-transformers/multi-qa-mpnet-base-dot-v1", "embed",
        "mpnet", 768, "cls",
    ),
    EncoderEntry(
        "multilingual-e5-base", "intfloat/multilingual-e5-base", "embed", "xlm-roberta", 768,
        "mean", _E5,
    ),
    EncoderEntry(
        "multilingual-e5-large", "intfloat/multilingual-e5-large", "embed", "xlm-roberta", 1024,
        "mean", _E5,
    ),
    *(
        EncoderEntry(
            f"qwen3-embedding-{size.lower()}", f"Qwen/Qwen3-Embedding-{size}", "embed", "qwen3",
            width,
        )
        for size, width in (("0.6B", 1024), ("4B", 2560), ("8B", 4096))
    ),
    *(
        EncoderEntry(
            f"qwen3-reranker-{size.lower()}", f"Qwen/Qwen3-Reranker-{size}", "rerank", "qwen3", 1
        )
        for size in ("0.6B", "4B", "8B")
    ),
    EncoderEntry(
        "multilingual-e5-large-instruct", "intfloat/multilingual-e5-large-instruct", "embed",
        "xlm-roberta", 1024, "mean", _INSTRUCT,
    ),
    EncoderEntry(
        "multilingual-e5-small", "intfloat/multilingual-e5-small", "embed", "bert", 384, "mean",
        _E5,
    ),
    EncoderEntry(
        "mxbai-embed-large-v1", "mixedbread-ai/mxbai-embed-large-v1", "embed", "bert", 1024, "cls",
        _BGE,
    ),
    EncoderEntry(
        "mxbai-rerank-base-v1", "mixedbread-ai/mxbai-rerank-base-v1", "rerank", "deberta-v2", 1
    ),
    EncoderEntry(
        "mxbai-rerank-base-v2", "mixedbread-ai/mxbai-rerank-base-v2", "rerank", "qwen2", 1
    ),
    EncoderEntry(
        "nomic-embed-text-v1.5", "nomic-ai/nomic-embed-text-v1.5", "embed", "nomic_bert", 768,
        "mean", _NOMIC,
    ),
    EncoderEntry(
        "opensearch-neural-sparse-encoding-v2-distill",
        "opensearch-project/opensearch-neural-sparse-encoding-v2-distill", "sparse", "distilbert",
        30522, "splade",
    ),
    EncoderEntry(
        "roberta-base-go_emotions", "SamLowe/roberta-base-go_emotions", "classify", "roberta", 28
    ),
    EncoderEntry(
        "sentence-camembert-base", "dangvantuan/sentence-camembert-base", "embed", "camembert",
        768, "mean",
    ),
    *(
        EncoderEntry(
            f"{name}-base-patch16-224", f"google/{name}-base-patch16-224", "embed", "siglip", 768,
            takes_images=True,
        )
        for name in ("siglip", "siglip2")
    ),
    EncoderEntry(
        "snowflake-arctic-embed-l-v2.0", "Snowflake/snowflake-arctic-embed-l-v2.0", "embed",
        "xlm-roberta", 1024, "cls", {"query": "query: "},
    ),
    EncoderEntry(
        "snowflake-arctic-embed-m-v2.0", "Snowflake/snowflake-arctic-embed-m-v2.0", "embed", "gte",
        768, "cls", {"query": "query: "},
    ),
    EncoderEntry(
        "static-retrieval-mrl-en-v1", "sentence-transformers/static-retrieval-mrl-en-v1", "embed",
        "static", 1024,
    ),
    EncoderEntry(
        "splade-cocondenser-ensembledistil", "naver/splade-cocondenser-ensembledistil", "sparse",
        "bert", 30522, "splade",
    ),
    EncoderEntry(
        "splade-v3-distilbert", "naver/splade-v3-distilbert", "sparse", "distilbert", 30522,
        "splade", revision="refs/pr/1",
    ),
)  # fmt: skip
