"""The rows of encoders in the table of architectures, in the order of the README's table."""

from atoll.models.family import Family

ENCODER_FAMILIES = (
    Family(
        "bert", "BERT, RoBERTa, CamemBERT, XLM-RoBERTa, data2vec",
        ("bert", "roberta", "xlm-roberta", "camembert", "data2vec-text"),
        ("BERT and JinaBERT v2", "RoBERTa", "XLM-RoBERTa", "CamemBERT", "data2vec"),
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
)  # fmt: skip
