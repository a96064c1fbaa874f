"""The rows of encoders in the table of architectures, in the order of the README's table."""

from collections.abc import Mapping

from atoll.models.family import Family

ENCODER_FAMILIES = (
    Family(
        "bert",
        "BERT, RoBERTa, CamemBERT, XLM-RoBERTa, data2vec, ERNIE 1 to 3, Contriever, DPR",
        ("bert", "roberta", "xlm-roberta", "camembert", "data2vec-text", "ernie", "dpr"),
        ("BERT and JinaBERT v2", "RoBERTa", "XLM-RoBERTa", "CamemBERT", "data2vec", "ERNIE", "DPR"),
        is_encoder=True, test="tests/encoders/test_numerics.py",
    ),
    Family(
        "jina_bert", "JinaBERT v2 (ALiBi)", (), is_encoder=True,
        variant=("position_embedding_type", "alibi"), test="tests/encoders/test_numerics.py",
    ),
    Family(
        "mpnet", "MPNet", ("mpnet",), ("MPNet",), is_encoder=True,
        test="tests/encoders/test_numerics.py",
    ),
    Family(
        "distilbert", "DistilBERT", ("distilbert",), ("DistilBERT",), is_encoder=True,
        test="tests/encoders/test_numerics.py",
    ),
    Family(
        "electra", "ELECTRA", ("electra",), ("ELECTRA",), is_encoder=True,
        test="tests/encoders/test_numerics.py",
    ),
    Family(
        "albert", "ALBERT", ("albert",), ("ALBERT",), is_encoder=True,
        test="tests/encoders/test_numerics.py",
    ),
    Family(
        "modernbert", "ModernBERT", ("modernbert",), ("ModernBERT",), is_encoder=True,
        test="tests/encoders/test_numerics.py",
    ),
    Family(
        "gte", "GTE v1.5 and multilingual, Snowflake Arctic Embed m-v2.0", ("new", "gte"),
        ("GTE", "GTE"), is_encoder=True, test="tests/encoders/test_numerics.py",
    ),
    Family(
        "nomic_bert", "NomicBERT (nomic-embed-text v1, v1.5, v2-moe)", ("nomic_bert",),
        ("NomicBERT",), is_encoder=True, test="tests/encoders/test_numerics.py",
    ),
    Family(
        "deberta", "DeBERTa v2, v3", ("deberta-v2",), ("DeBERTa v2 and v3",), is_encoder=True,
        test="tests/encoders/test_numerics.py",
    ),
    Family(
        "clip", "CLIP (texts and images)", ("clip",), ("CLIP",), is_encoder=True,
        test="tests/encoders/test_images.py",
    ),
    Family(
        "siglip", "SigLIP, SigLIP 2 for images of one size (texts and images)", ("siglip",),
        ("SigLIP",), is_encoder=True, test="tests/encoders/test_images.py",
    ),
)  # fmt: skip

# model_types of encoders of texts and images.
WITH_IMAGES = ("clip", "siglip")

# What people call encoders without a file, which transformers runs -> their model_types.
# docs/models.md lists them.
ENCODERS_ON_TRANSFORMERS: Mapping[str, tuple[str, ...]] = {
    "BigBird": ("big_bird",),
    "ConvBERT": ("convbert",),
    "DeBERTa (first version)": ("deberta",),
    "EmbeddingGemma 2 (text models)": ("embedding_gemma2_text",),
    "ESM-2, ESM C": ("esm", "esmc"),
    "EuroBERT": ("eurobert",),
    "FlauBERT, XLM": ("flaubert", "xlm"),
    "FNet": ("fnet",),
    "Funnel": ("funnel",),
    "I-BERT": ("ibert",),
    "Jina Embeddings v3 (as transformers saves it)": ("jina_embeddings_v3",),
    "Longformer": ("longformer",),
    "LUKE, mLUKE": ("luke",),
    "Megatron-BERT": ("megatron-bert",),
    "MobileBERT": ("mobilebert",),
    "Nyströmformer": ("nystromformer",),
    "RemBERT": ("rembert",),
    "RoBERTa with norms before its layers": ("roberta-prelayernorm",),
    "RoFormer": ("roformer",),
    "SqueezeBERT": ("squeezebert",),
    "T5's encoder": ("t5", "mt5", "umt5"),
    "XLM-RoBERTa XL": ("xlm-roberta-xl",),
    "X-MOD": ("xmod",),
}

# Of the generators that transformers runs, those that are compared as embedders, too.
DECODERS_ON_TRANSFORMERS: Mapping[str, tuple[str, ...]] = {
    "Gemma 3n (text models)": ("gemma3n_text",),
}
