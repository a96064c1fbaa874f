"""Sampling of one token per row with temperature, top-k and top-p."""

from torch import Tensor

from atoll_kernels import dispatch


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor | None,
    top_p: Tensor | None,
    uniforms: Tensor,
) -> Tensor:
    """Samples by inverting the cumulative distribution, in the order of the vocabulary.

    Top-k keeps the scores not below the k-th largest. Of those, top-p keeps the most likely ones
    until their mass reaches ``top_p``. Equal scores are kept or removed together.

    Args:
        logits: (rows, vocab) float32, finite or -inf (never sampled).
        temperature: (rows,) float32. top_k: (rows,) int32; vocab: no limit. top_p: (rows,) float32;
            1: no limit. None: no limit for any row.
        uniforms: (rows,) float64 in (0, 1).

    Returns:
        (rows,) int64.
    """
    result: Tensor = dispatch.run("sample", logits, temperature, top_k, top_p, uniforms)
    return result
