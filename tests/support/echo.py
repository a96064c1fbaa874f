"""Generators that say what they are told: the token ``DELAY`` places before each one.

A GPT-2 of one layer: its positions name the position to look at, attention copies the token there.
A prompt of exactly ``DELAY`` tokens therefore has its own beginning as the answer.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers as hf
from tiny.tokenizer import CHARACTERS
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

DELAY = 256
_POSITIONS, _HIGH, _LOW, _CODE = 512, 32, 16, 32
_PLACE = _HIGH + _LOW
_HIDDEN = 2 * _PLACE + _CODE
END = "</s>"


def write_echo(folder: Path, template: str, markers: tuple[str, ...]) -> None:
    """A checkpoint with a chat template, which may print little but the last message.

    markers: special tokens besides; the last of them ends an answer, as ``END`` does.
    """
    special = [END, "<unk>", *markers]
    vocabulary = {token: i for i, token in enumerate([*special, *CHARACTERS, "\\"])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens(special)
    folder.mkdir(parents=True)
    ends = [vocabulary[END], vocabulary[special[-1]]]
    model = hf.GPT2LMHeadModel(hf.GPT2Config(
        vocab_size=len(vocabulary), n_positions=_POSITIONS, n_embd=_HIDDEN, n_layer=1, n_head=1,
        n_inner=8, bos_token_id=0, eos_token_id=ends,
    )).eval()  # fmt: skip
    _teach(model)
    model.save_pretrained(folder)
    core.save(str(folder / "tokenizer.json"))
    config = {
        "eos_token": END, "unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": template,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def told(folder: Path, answer: str, behind: str = "") -> str:
    """The message to which the checkpoint gives this answer.

    behind: what the chat template adds to the message.
    """
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    room = DELAY - len(core.encode(f"{answer}{END}{behind}").ids)
    assert room >= 0, f"the answer has {-room} tokens more than the prompt may have"
    return f"{answer}{END}{'.' * room}"


@torch.no_grad()
def _teach(model: hf.GPT2LMHeadModel) -> None:
    for parameter in model.parameters():
        parameter.zero_()
    trunk, block = model.transformer, model.transformer.h[0]
    for norm in (block.ln_1, block.ln_2, trunk.ln_f):
        norm.weight.fill_(1.0)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2, (trunk.wte.num_embeddings, _CODE), generator=generator) * 1.0 - 0.5
    trunk.wte.weight[:, 2 * _PLACE :] = codes
    for position in range(_POSITIONS):
        trunk.wpe.weight[position, :_PLACE] = _place(position)
        if position + 1 >= DELAY:
            trunk.wpe.weight[position, _PLACE : 2 * _PLACE] = _place(position + 1 - DELAY)
    attention, projection = block.attn.c_attn.weight, block.attn.c_proj.weight
    for i in range(_PLACE):
        attention[_PLACE + i, i] = 20.0  # the query: the position to look at
        attention[i, _HIDDEN + i] = 20.0  # the key: the own position
    for i in range(_CODE):
        attention[2 * _PLACE + i, 2 * _HIDDEN + i] = 1.0
        projection[i, 2 * _PLACE + i] = 10.0


def _place(position: int) -> torch.Tensor:
    code = torch.zeros(_PLACE)
    code[position // _LOW] = code[_HIGH + position % _LOW] = 1.0
    return code
