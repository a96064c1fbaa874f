"""From logits to tokens: processors, warpers, the choice itself, and log-probabilities."""

from atoll.sampling.logprobs import prompt_logprobs
from atoll.sampling.sampler import Sampled, Sampler

__all__ = ["Sampled", "Sampler", "prompt_logprobs"]
