"""What the heads of an encoder's architecture compute, and where their tensors are.

A config (``layers.encoder.TrunkConfig``) names the heads that its architecture has;
``encoders.heads`` makes modules of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from atoll.weights.weight_map import FirstOf, WeightMap


@dataclass(frozen=True, kw_only=True)
class ClassifierLayout:
    """``...ForSequenceClassification``: classifier(norm(activation(dense(vector of the text)))).

    The same of every token's vector, without a pooling: ``...ForTokenClassification``.

    weights: has ``classifier``, and ``dense`` and ``norm`` if there are any.
    pooling: which vector of a text is scored, one of ``weights.modules.POOLING_MODES``.
    activation: of the dense layer. norm_eps: None: there is no norm.
    """

    weights: WeightMap
    pooling: str = "cls"
    has_dense: bool = True
    dense_bias: bool = True
    activation: str | None = "tanh"
    norm_eps: float | None = None
    norm_bias: bool = True
    classifier_bias: bool = True


@dataclass(frozen=True, kw_only=True)
class MaskedLanguageLayout:
    """``...ForMaskedLM``: decoder(norm(activation(dense(hidden)))) + bias.

    weights: has ``dense`` and ``norm``; ``decoder``, where the matrix is that is not the embedding,
    and newer files have the bias; ``bias``, where older files have it.
    activation: None: that of the trunk. width: features of a word's vector; None: hidden_size.
    """

    weights: WeightMap
    activation: str | None = None
    dense_bias: bool = True
    norm_bias: bool = True
    decoder_bias: bool = True
    width: int | None = None


@dataclass(frozen=True, kw_only=True)
class ProjectionLayout:
    """A layer that the vector of a text goes through once it is pooled.

    weights: has ``linear``, with a bias. size: of what comes out.
    """

    weights: WeightMap
    size: int


# BERT calls the dense layer its pooler.
BERT_CLASSIFIER = ClassifierLayout(
    weights=WeightMap(
        anchor="classifier",
        modules={
            "dense": FirstOf("pooler.dense", "bert.pooler.dense", "ernie.pooler.dense"),
            "classifier": "classifier",
        },
    )
)
ROBERTA_CLASSIFIER = ClassifierLayout(
    weights=WeightMap(
        anchor="classifier.out_proj",
        modules={"dense": "classifier.dense", "classifier": "classifier.out_proj"},
    )
)
BERT_MASKED_LANGUAGE = MaskedLanguageLayout(
    weights=WeightMap(
        anchor="cls.predictions.transform.dense",
        modules={
            "dense": "cls.predictions.transform.dense",
            "norm": "cls.predictions.transform.LayerNorm",
            "decoder": "cls.predictions.decoder",
            "bias": "cls.predictions",
        },
    )
)
# hidden_act has no effect on RoBERTa's head.
ROBERTA_MASKED_LANGUAGE = MaskedLanguageLayout(
    weights=WeightMap(
        anchor="lm_head.dense",
        modules={
            "dense": "lm_head.dense",
            "norm": "lm_head.layer_norm",
            "decoder": "lm_head.decoder",
            "bias": "lm_head",
        },
    ),
    activation="gelu",
)
# ``...ForTokenClassification``: a matrix alone, on the hidden states of all tokens.
TOKEN_CLASSIFIER = ClassifierLayout(
    weights=WeightMap(anchor="classifier", modules={"classifier": "classifier"}), has_dense=False
)
BERT_CLASSIFIERS = (BERT_CLASSIFIER, ROBERTA_CLASSIFIER)
BERT_MASKED_LANGUAGES = (ROBERTA_MASKED_LANGUAGE, BERT_MASKED_LANGUAGE)
