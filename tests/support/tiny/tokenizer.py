"""A tokenizer for tiny checkpoints: one token per character, within their 96 ids."""

import json
import string
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ("<s>", "</s>", "<unk>")
CHARACTERS = string.ascii_letters + string.digits + " \n" + ".,:;!?'\"()[]{}<>+-*/=_#@%&|~"


def write_tokenizer(folder: Path, special: tuple[str, ...] = SPECIAL) -> None:
    """tokenizer.json and tokenizer_config.json; generation never ends by itself."""
    vocabulary = {token: i for i, token in enumerate([*special, *CHARACTERS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens(list(special))
    core.save(str(folder / "tokenizer.json"))
    config = {
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
