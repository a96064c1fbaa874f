"""Tiny generators whose tokenizers are those of ``token_families``."""

import json
from pathlib import Path

import transformers as hf
from token_families import family

from tiny.checkpoint import Variant, write
from tiny.t5 import write_t5

_TEMPLATE = """{% for message in messages %}<s>{% for part in message.content %}{{ part.text }}
{%- endfor %}{% endfor %}"""


def write_generator(name: str, folder: Path) -> None:
    """A Llama, or a T5 for vocabularies of words, in ``folder``; it takes contents as parts."""
    ours, _ = family(name)
    end = ours.core.token_to_id("</s>")
    if name.startswith("unigram"):
        write_t5("t5", folder)
        keys = {"eos_token_id": end, "decoder_start_token_id": ours.core.token_to_id("<pad>")}
    else:
        write(Variant(name, lambda: _llama(ours.core.get_vocab_size())), folder)
        keys = {"eos_token_id": end}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **keys}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    ours.core.save(str(folder / "tokenizer.json"))
    tokenizer_config = {
        **ours.config, "eos_token": "</s>", "pad_token": "<pad>", "chat_template": _TEMPLATE,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))


def _llama(vocab_size: int) -> hf.LlamaForCausalLM:
    return hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256,
    ))  # fmt: skip
