"""From logits to tokens: processors, warpers, the choice itself, and log-probabilities."""

from atoll.engine.sampler.logprobs import prompt_logprobs
from atoll.engine.sampler.sampler import Sampled, Sampler

__all__ = ["Sampled", "Sampler", "prompt_logprobs"]
