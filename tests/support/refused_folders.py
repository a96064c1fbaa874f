"""Checkpoint folders, by their JSON files alone, that are refused, and what the refusal names."""

from collections.abc import Mapping
from typing import Any

from lookalikes import (
    BERT,
    CARD,
    LLAMA,
    NLLB_MOE,
    PEGASUS,
    POOLING,
    QWEN3,
    SCORE,
    STABLELM,
    TOKENS,
    TRUNK,
    VISION,
    Json,
)

# config.json, other files, what the refusal names.
REFUSED: dict[str, tuple[Json, Mapping[str, Any], str]] = {
    "a reader": (
        {**BERT, "model_type": "roberta", "architectures": ["RobertaForQuestionAnswering"]},
        {},
        "RobertaForQuestionAnswering is not supported",
    ),
    "an embedder of documents": (
        {**BERT, "architectures": ["BertForMaskedLM"]},
        {"idf.json": {"a": 1.5}},
        "idf.json weighs the words of queries",
    ),
    "a chooser": (
        {**BERT, "architectures": ["BertForMultipleChoice"]},
        {},
        "BertForMultipleChoice",
    ),
    "a causal encoder": ({**BERT, "architectures": ["BertLMHeadModel"]}, {}, "BertLMHeadModel"),
    **{
        f"words of {kinds[0]}": (
            BERT,
            {
                "modules.json": [
                    {**TRUNK, "path": f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"}
                    for i, kind in enumerate(kinds)
                ]
            },
            rf"modules \['{kinds[0]}'.*\] are not supported for task 'embed'",
        )
        for kinds in (("WordEmbeddings", "Pooling"), ("BoW", "Dense"))
    },
    **{
        f"tokens through {kind}": (
            BERT,
            {
                "modules.json": [
                    TRUNK,
                    {**TRUNK, "path": "1", "type": f"sentence_transformers.models.{kind}"},
                    POOLING,
                ]
            },
            rf"modules \['Transformer', '{kind}', 'Pooling'\] are not supported for task 'embed'",
        )
        for kind in ("CNN", "LSTM", "WordWeights", "WeightedLayerPooling")
    },
    "multi vectors of one vector": (
        BERT,
        {
            "modules.json": [TRUNK, POOLING],
            "1_Pooling/config.json": {"pooling_mode": "cls"},
            "config_sentence_transformers.json": {"model_type": "MultiVectorEncoder"},
        },
        "modules .*Pooling.* are not supported for task 'multi_vector'",
    ),
    "pooled tokens": (
        BERT,
        {
            "modules.json": [TRUNK, {**TRUNK, "type": f"{TOKENS}.HierarchicalTokenPooling"}],
            "config_sentence_transformers.json": {"model_type": "MultiVectorEncoder"},
        },
        "HierarchicalTokenPooling.* are not supported for task 'multi_vector'",
    ),
    "PyLate's own code": (
        BERT,
        {
            "modules.json": [TRUNK, {**TRUNK, "type": "pylate.models.Other.Other"}],
            "config_sentence_transformers.json": {"model_type": "ColBERT"},
        },
        "pylate.models.Other.Other.*not sentence-transformers' own",
    ),
    "a reranker by its modules": (
        QWEN3,
        {"modules.json": [TRUNK, SCORE]},
        "a decoder is to rerank, and no file says how .* set reranker_template to",
    ),
    "a reranker by its saver": (
        QWEN3,
        {"config_sentence_transformers.json": {"model_type": "CrossEncoder"}},
        "a decoder is to rerank, and no file says how .* set reranker_template to",
    ),
    "a native reranker": (
        LLAMA,
        {"config_sentence_transformers.json": {"model_type": "CrossEncoder"}},
        "a decoder is to rerank, and no file says how .* set reranker_template to",
    ),
    "a reranker by its card": (
        QWEN3,
        {"README.md": CARD},
        "README.md has pipeline_tag text-ranking",
    ),
    "ColBERT by what it was made from": (
        {**BERT, "_name_or_path": "someone/mxbai-colbert-large"},
        {},
        "the name 'mxbai-colbert-large' says that this is ColBERT",
    ),
    "a reward model": (
        {**LLAMA, "architectures": ["LlamaForRewardModel"]},
        {},
        "LlamaForRewardModel",
    ),
    "a tagger of its own code": (
        {
            **LLAMA,
            "architectures": ["LlamaForTokenClassification"],
            "auto_map": {"AutoModelForTokenClassification": "own.LlamaTagger"},
        },
        {},
        "auto_map names own.LlamaTagger, .*never run",
    ),
    "a bare trunk": (
        {**LLAMA, "architectures": ["MistralModel"], "model_type": "mistral"},
        {},
        "MistralModel",
    ),
    "a scorer of its own code": (
        {
            **LLAMA,
            "architectures": ["LlamaForSequenceClassification"],
            "auto_map": {"AutoModelForSequenceClassification": "own.LlamaForScores"},
        },
        {},
        "auto_map names own.LlamaForScores, .*never run",
    ),
    "a scorer that looks both ways": (
        {**LLAMA, "model_type": "llama_bidirec", "architectures": ["LlamaBidirectionalForScores"]},
        {},
        "LlamaBidirectionalForScores",
    ),
    "code of its own": (
        {
            **LLAMA,
            "architectures": ["OwnForCausalLM"],
            "auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"},
        },
        {},
        "modeling_own.OwnForCausalLM.*never run",
    ),
    "code of its own beside transformers'": (
        {**STABLELM, "auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}},
        {},
        "auto_map names OwnForCausalLM.*never run",
    ),
    "another family's head": (
        {**LLAMA, "architectures": ["EagleLlamaForCausalLM"]},
        {},
        "EagleLlamaForCausalLM",
    ),
    "images": (
        {"model_type": "idefics3", "architectures": ["Idefics3ForConditionalGeneration"], **VISION},
        {},
        "Idefics3ForConditionalGeneration.*no text generator",
    ),
    "images without a text": (
        {"model_type": "mistral3", "architectures": ["Mistral3ForConditionalGeneration"], **VISION},
        {},
        "text_config is null; expected the config of its text part",
    ),
    "images beside another text, native": (
        {
            "model_type": "mistral3",
            "architectures": ["Mistral3ForConditionalGeneration"],
            **VISION,
            "text_config": QWEN3,
        },
        {},
        "text_config: model_type is 'qwen3'; supported in 'mistral3': mistral, ministral3",
    ),
    "images beside a text": (
        {
            "model_type": "gemma3n",
            "architectures": ["Gemma3nForConditionalGeneration"],
            **VISION,
            "text_config": {**QWEN3, "model_type": "gemma3n_text"},
        },
        {},
        "Gemma3nForConditionalGeneration has vision_config",
    ),
    "a soft cap beside images, native": (
        {
            "model_type": "gemma3",
            "architectures": ["Gemma3ForConditionalGeneration"],
            **VISION,
            "text_config": {
                **QWEN3,
                "model_type": "gemma3_text",
                "final_logit_softcapping": 30.0,
            },
        },
        {},
        "final_logit_softcapping is 30.0; transformers' Gemma3ForConditionalGeneration",
    ),
    "images in a native family": ({**LLAMA, "mm_vision_tower": "clip"}, {}, "has mm_vision_tower"),
    "sound": (
        {
            "model_type": "speech_to_text",
            "architectures": ["Speech2TextForConditionalGeneration"],
            "is_encoder_decoder": True,
        },
        {},
        "Speech2TextForConditionalGeneration.*no text generator",
    ),
    "Whisper's oldest files": (
        {
            "model_type": "whisper",
            "architectures": ["WhisperForConditionalGeneration"],
            "is_encoder_decoder": True,
        },
        {},
        "generation_config.json has no no_timestamps_token_id",
    ),
    "words ahead": (
        {"model_type": "xlnet", "architectures": ["XLNetLMHeadModel"]},
        {},
        "XLNetLMHeadModel: .* it is no decoder",
    ),
    "longrope of other heads, native": (
        {
            **LLAMA,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0] * 3,
                "long_factor": [2.0] * 3,
            },
        },
        {},
        r"short_factor is \[1.0, 1.0, 1.0\]; expected a list of 4",
    ),
    "NLLB's experts": (
        NLLB_MOE,
        {},
        "NllbMoeForConditionalGeneration: translates into the language of",
    ),
    "NLLB's experts with a language": (
        NLLB_MOE,
        {"generation_config.json": {"forced_bos_token_id": 7}},
        "the language of forced_bos_token_id",
    ),
    "a first token on transformers": (
        PEGASUS,
        {"generation_config.json": {"forced_bos_token_id": 7}},
        "generation_config.json: forced_bos_token_id 7 is not supported",
    ),
    "a first token in older files": (
        {**PEGASUS, "forced_bos_token_id": 7},
        {},
        "/config.json: forced_bos_token_id 7 is not supported",
    ),
    "a word without tokens": (
        LLAMA,
        {"generation_config.json": {"bad_words_ids": [[5], []]}},
        "bad_words_ids is .* a word has no tokens",
    ),
    "an end beyond the vocabulary": (
        LLAMA,
        {"generation_config.json": {"forced_eos_token_id": 1 << 20}},
        "forced_eos_token_id is 1048576; expected a token's id",
    ),
    "guidance": (QWEN3, {"generation_config.json": {"guidance_scale": 1.5}}, "guidance_scale 1.5"),
    "stops": (LLAMA, {"generation_config.json": {"stop_strings": ["x"]}}, "stop_strings"),
    "weights of another scheme, native": (
        {**LLAMA, "quantization_config": {"quant_method": "fbgemm_fp8"}},
        {},
        "quant_method.*fbgemm_fp8",
    ),
    "an adapter": (LLAMA, {"adapter_config.json": {}}, "adapter_config.json says"),
    "an embedder's adapter": (BERT, {"adapter_config.json": {}}, "adapter_config.json says"),
    "architectures of another kind": ({**BERT, "architectures": 5}, {}, "architectures is 5"),
}
