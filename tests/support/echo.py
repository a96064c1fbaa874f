"""Generators that say what they are told: the token ``DELAY`` places before each one.

A GPT-2 of one layer: its positions name the position to look at, attention copies the token there.
A prompt of exactly ``DELAY`` tokens therefore has its own beginning as the answer.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tiny.tokenizer import CHARACTERS
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

DELAY = 256
_POSITIONS, _HIGH, _LOW, _CODE = 512, 32, 16, 32
_PLACE = _HIGH + _LOW
_HIDDEN = 2 * _PLACE + _CODE
_INNER = 8
END = "</s>"
_MESSAGE = "{{ messages[-1].content }}{% if tools %}{% endif %}"
_HERMES = _MESSAGE + (
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}"
    "{% else %}{{ '<think>\n' }}{% endif %}{# <tool_call> </tool_call> #}"
)
_HARMONY = _MESSAGE + "{{ '<|start|>assistant' }}{# <|channel|> #}"
_MARKERS = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>")
# Chat templates by the name of a checkpoint, with its special tokens.
TEMPLATES: dict[str, tuple[str, tuple[str, ...]]] = {
    "hermes": (_HERMES, ()), "harmony": (_HARMONY, _MARKERS), "xml": (_MESSAGE, ()),
}  # fmt: skip
Floats = npt.NDArray[np.float32]


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
    core.save(str(folder / "tokenizer.json"))
    save_file(_weights(len(vocabulary)), folder / "model.safetensors")
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": len(vocabulary),
        "n_positions": _POSITIONS, "n_embd": _HIDDEN, "n_layer": 1, "n_head": 1, "n_inner": _INNER,
        "eos_token_id": [vocabulary[END], vocabulary[special[-1]]],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer_config = {
        "eos_token": END, "unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": template,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))


def told(folder: Path, answer: str, behind: str = "") -> str:
    """The message to which the checkpoint gives this answer.

    behind: what the chat template adds to the message.
    """
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    room = DELAY - len(core.encode(f"{answer}{END}{behind}").ids)
    assert room >= 0, f"the answer has {-room} tokens more than the prompt may have"
    return f"{answer}{END}{'.' * room}"


def _weights(vocab_size: int) -> dict[str, Floats]:
    generator = np.random.default_rng(0)
    words, positions = _zeros(vocab_size, _HIDDEN), _zeros(_POSITIONS, _HIDDEN)
    words[:, 2 * _PLACE :] = generator.integers(0, 2, (vocab_size, _CODE)) - 0.5
    for position in range(_POSITIONS):
        positions[position, :_PLACE] = _place(position)
        if position + 1 >= DELAY:
            positions[position, _PLACE : 2 * _PLACE] = _place(position + 1 - DELAY)
    attention, projection = _zeros(_HIDDEN, 3 * _HIDDEN), _zeros(_HIDDEN, _HIDDEN)
    for i in range(_PLACE):
        attention[_PLACE + i, i] = 20.0  # the query: the position to look at
        attention[i, _HIDDEN + i] = 20.0  # the key: the own position
    for i in range(_CODE):
        attention[2 * _PLACE + i, 2 * _HIDDEN + i] = 1.0
        projection[i, 2 * _PLACE + i] = 10.0
    matrices = {
        "attn.c_attn": attention, "attn.c_proj": projection, "mlp.c_fc": _zeros(_HIDDEN, _INNER),
        "mlp.c_proj": _zeros(_INNER, _HIDDEN),
    }  # fmt: skip
    found = {"wte.weight": words, "wpe.weight": positions}
    for name, matrix in matrices.items():
        found |= {f"h.0.{name}.weight": matrix, f"h.0.{name}.bias": _zeros(matrix.shape[1])}
    for name in ("h.0.ln_1", "h.0.ln_2", "ln_f"):
        found |= {f"{name}.weight": _zeros(_HIDDEN) + 1, f"{name}.bias": _zeros(_HIDDEN)}
    return found


def _zeros(*shape: int) -> Floats:
    return np.zeros(shape, np.float32)


def _place(position: int) -> Floats:
    code = _zeros(_PLACE)
    code[position // _LOW] = code[_HIGH + position % _LOW] = 1.0
    return code
