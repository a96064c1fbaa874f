"""Random texts of a compiled grammar, over the first tokens of a real vocabulary."""

import json
import random
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer as RustTokenizer

from atoll.sampling.grammar import Grammar, GrammarCompiler
from atoll.text.tokenizer import Tokenizer
from atoll.weights.files import resolve

# Every byte, and the vocabulary's most frequent merges.
NUM_TOKENS = 2000
EOS = 2
_MOST_TOKENS, _CALM = 600, 30


def small_tokenizer() -> Tokenizer:
    """SmolLM2's, cut off behind its first tokens; token 2 ends a text."""
    whole = Tokenizer.load(resolve("HuggingFaceTB/SmolLM2-135M-Instruct"))
    described = json.loads(whole.core.to_str())
    model = described["model"]
    model["vocab"] = {token: i for token, i in model["vocab"].items() if i < NUM_TOKENS}
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    model["merges"] = [pair for pair in pairs if "".join(pair) in model["vocab"]]
    return Tokenizer(RustTokenizer.from_str(json.dumps(described)), {}, {}, frozenset([EOS]))


class Walker:
    """Writes texts as a model that has no idea: any token that may follow, closing ones soon."""

    def __init__(self) -> None:
        self.tokenizer = small_tokenizer()
        self.compiler = GrammarCompiler(self.tokenizer, NUM_TOKENS)
        texts = [self.tokenizer.decode([i]) for i in range(NUM_TOKENS)]
        closing = [text[-1:] in ('"', "]", "}") or text == "null" for text in texts]
        closing[EOS] = True
        self._closing = torch.tensor(closing)
        self._shifts = torch.arange(32, dtype=torch.int32)

    def write(self, grammar: Grammar, seed: int) -> str | None:
        """One text; None if it did not come to its end."""
        chosen, matcher = random.Random(seed), grammar.matcher()
        bitmask = np.zeros((1, -(-NUM_TOKENS // 32)), np.int32)
        ids: list[int] = []
        for step in range(_MOST_TOKENS):
            matcher.fill(bitmask, 0)
            bits = (torch.from_numpy(bitmask)[0].unsqueeze(1) >> self._shifts) & 1
            allowed = bits.flatten()[:NUM_TOKENS] == 1
            ending = allowed & self._closing
            if ending.any() and chosen.random() < (0.25 if step < _CALM else 0.9):
                allowed = ending
            options = allowed.nonzero().squeeze(1).tolist()
            assert options, f"nothing may follow {self.tokenizer.decode(ids)!r}"
            token = chosen.choice(options)
            matcher.advance(token)
            if token == EOS:
                return self.tokenizer.decode(ids)
            ids.append(token)
        return None

    def texts(self, kind: str, source: Any, count: int) -> list[str]:
        """Texts that came to their end; at least one."""
        text = source if isinstance(source, str) else json.dumps(source)
        grammar = self.compiler.compile(kind, text)
        found = [self.write(grammar, seed) for seed in range(count)]
        ended = [text for text in found if text is not None]
        assert ended, f"no text of {source} came to its end"
        return ended
