"""The draw of one token per row, limited by temperature, top-k and top-p."""

from torch import Tensor

from atoll_kernels import dispatch


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor | None,
    top_p: Tensor | None,
    uniforms: Tensor,
) -> Tensor:
    """Draws by the inverse of the cumulative distribution, in the order of the vocabulary.

    First top-k keeps the scores that reach the k-th largest, then top-p the most likely of those,
    while the ones before hold less than ``top_p`` of their mass; equal scores stay or go together.

    Args:
        logits: (rows, vocab) float32, finite or -inf (never drawn).
        temperature: (rows,) float32. top_k: (rows,) int32, vocab: no limit. top_p: (rows,) float32,
            1: no limit. None limits no row.
        uniforms: (rows,) float64 in (0, 1).

    Returns:
        (rows,) int64.
    """
    result: Tensor = dispatch.run("sample", logits, temperature, top_k, top_p, uniforms)
    return result
