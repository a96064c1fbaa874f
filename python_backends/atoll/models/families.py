"""Which file implements which architecture name.

A variant that only its config tells apart is another name here, never a copied file. Nothing heavy
is imported, as commands read this that load no model.
"""

from collections.abc import Mapping

# config.json model_type -> file; checked after ARCHITECTURES.
ENCODERS: Mapping[str, str] = {
    "bert": "bert",
    "camembert": "bert",
    "roberta": "bert",
    "xlm-roberta": "bert",
}
DECODERS: Mapping[str, str] = {
    "bloom": "bloom",
    "falcon": "falcon",
    "gpt_bigcode": "gpt_bigcode",
    "gpt_neox": "gpt_neox",
    "llama": "llama",
    "mistral": "llama",
    "mixformer-sequential": "phi",
    "mixtral": "mixtral",
    "mpt": "mpt",
    "mt5": "t5",
    "opt": "opt",
    "phi": "phi",
    "phi-msft": "phi",
    "RefinedWeb": "falcon",
    "RefinedWebModel": "falcon",
    "t5": "t5",
}
# config.json architectures[0] -> file, for repositories whose model_type says something else.
ARCHITECTURES: Mapping[str, str] = {"GPT2LMHeadCustomModel": "gpt_bigcode"}
# A (key, value) of config.json -> file, for families that share another one's model_type.
VARIANTS: Mapping[tuple[str, str], str] = {("position_embedding_type", "alibi"): "jina_bert"}
