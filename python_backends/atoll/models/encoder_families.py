"""The rows of encoders in the table of architectures, in the order of the README's table."""

from atoll.models.family import Family

ENCODER_FAMILIES = (
    Family(
        "bert", "BERT, RoBERTa, CamemBERT, XLM-RoBERTa",
        ("bert", "roberta", "xlm-roberta", "camembert"),
        ("BERT and JinaBERT v2", "RoBERTa", "XLM-RoBERTa", "CamemBERT"),
        is_encoder=True, test="tests/encoders/test_numerics.py",
    ),
    Family(
        "jina_bert", "JinaBERT v2 (ALiBi)", (), is_encoder=True,
        variant=("position_embedding_type", "alibi"), test="tests/encoders/test_numerics.py",
    ),
    Family(
        "modernbert", "ModernBERT", ("modernbert",), ("ModernBERT",), is_encoder=True,
        test="tests/encoders/test_numerics.py",
    ),
)  # fmt: skip
