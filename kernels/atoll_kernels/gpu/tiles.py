"""Tile sizes of each kernel: a table instead of autotuning, which would delay the first requests.

Rows are (op, bucket) -> architecture -> ``Launch``. A bucket is what the wrapper knows without
asking the device: the head size, the size of an element, and whether there are as few rows as in
decoding. Tests compile the kernels for every architecture and check their shared memory.
"""

from __future__ import annotations

from typing import NamedTuple


class Launch(NamedTuple):
    """Tile sizes (0: unused), warps per program, and stages of the load pipeline."""

    block_m: int
    block_n: int
    block_k: int = 0
    num_warps: int = 4
    num_stages: int = 2


AMPERE = "ampere"  # sm80, sm86, sm89, and any other without an entry of its own

TABLE: dict[tuple[str, str], dict[str, Launch]] = {
    ("flash", "half-d64"): {
        "sm75": Launch(64, 32, 0, 8, 1), AMPERE: Launch(128, 64, 0, 4, 3),
        "sm90": Launch(128, 64, 0, 8, 3), "gfx90a": Launch(128, 64, 0, 4, 1),
    },
    ("flash", "half-d128"): {
        "sm75": Launch(32, 32, 0, 8, 1), AMPERE: Launch(128, 64, 0, 8, 3),
        "sm90": Launch(64, 64, 0, 4, 3), "gfx90a": Launch(128, 32, 0, 4, 1),
    },
    # Sequences shorter than the tiles above.
    ("flash", "half-d64-short-seqlen"): {
        "sm75": Launch(32, 32, 0, 4, 1), AMPERE: Launch(32, 32, 0, 4, 2),
        "sm90": Launch(64, 32, 0, 4, 2), "gfx90a": Launch(32, 32, 0, 4, 1),
    },
    ("flash", "half-d128-short-seqlen"): {
        "sm75": Launch(32, 32, 0, 8, 1), AMPERE: Launch(32, 32, 0, 4, 2),
        "sm90": Launch(32, 32, 0, 4, 2), "gfx90a": Launch(32, 32, 0, 4, 1),
    },
    # Windows, biases and a soft cap need registers, which large tiles do not leave.
    ("flash", "half-d64-biased"): {
        "sm75": Launch(64, 32, 0, 8, 1), AMPERE: Launch(128, 64, 0, 8, 2),
        "sm90": Launch(128, 64, 0, 8, 3), "gfx90a": Launch(128, 64, 0, 4, 1),
    },
    ("flash", "half-d128-biased"): {
        "sm75": Launch(32, 32, 0, 4, 1), AMPERE: Launch(128, 64, 0, 8, 3),
        "sm90": Launch(128, 64, 0, 8, 3), "gfx90a": Launch(128, 32, 0, 4, 1),
    },
    ("flash", "half-d64-sinks"): {
        "sm75": Launch(32, 32, 0, 4, 1), AMPERE: Launch(64, 64, 0, 4, 2),
        "sm90": Launch(128, 64, 0, 8, 3), "gfx90a": Launch(128, 64, 0, 4, 1),
    },
    # A soft cap takes more registers than biases.
    ("flash", "half-d128-softcap"): {
        "sm75": Launch(32, 32, 0, 8, 1), AMPERE: Launch(128, 64, 0, 8, 3),
        "sm90": Launch(128, 64, 0, 8, 3), "gfx90a": Launch(128, 32, 0, 4, 1),
    },
    ("flash", "half-d256-softcap"): {
        "sm75": Launch(16, 16, 0, 8, 1), AMPERE: Launch(64, 32, 0, 8, 2),
        "sm90": Launch(128, 32, 0, 8, 2), "gfx90a": Launch(64, 32, 0, 4, 1),
    },
    ("flash", "half-d256"): {
        "sm75": Launch(16, 32, 0, 4, 1), AMPERE: Launch(64, 32, 0, 4, 2),
        "sm80": Launch(128, 32, 0, 8, 2), "sm90": Launch(128, 64, 0, 8, 2),
        "gfx90a": Launch(64, 32, 0, 4, 1),
    },
    ("flash", "half-d512"): {
        "sm75": Launch(16, 16, 0, 8, 1), AMPERE: Launch(16, 16, 0, 4, 2),
        "sm80": Launch(32, 32, 0, 8, 2), "sm90": Launch(32, 32, 0, 8, 2),
        "gfx90a": Launch(16, 16, 0, 4, 1),
    },
    ("flash", "wide-d64"): {
        "sm75": Launch(32, 32, 0, 4, 1), AMPERE: Launch(64, 32, 0, 4, 2),
        "sm90": Launch(64, 32, 0, 4, 2), "gfx90a": Launch(64, 32, 0, 4, 1),
    },
    ("flash", "wide-d128"): {
        "sm75": Launch(32, 16, 0, 4, 1), AMPERE: Launch(32, 32, 0, 4, 2),
        "sm90": Launch(32, 32, 0, 4, 2), "gfx90a": Launch(32, 32, 0, 4, 1),
    },
    ("flash", "wide-d256"): {
        "sm75": Launch(16, 16, 0, 4, 1), AMPERE: Launch(16, 16, 0, 4, 2),
        "sm90": Launch(16, 32, 0, 4, 2), "gfx90a": Launch(16, 16, 0, 4, 1),
    },
    ("disentangled", "half-d64"): {
        "sm75": Launch(32, 32, 0, 8, 1), AMPERE: Launch(64, 32, 0, 4, 2),
        "sm90": Launch(64, 64, 0, 8, 2), "gfx90a": Launch(64, 64, 0, 4, 1),
    },
    ("disentangled", "half-d128"): {
        "sm75": Launch(16, 16, 0, 4, 1), AMPERE: Launch(32, 32, 0, 4, 2),
        "sm90": Launch(64, 64, 0, 8, 2), "gfx90a": Launch(32, 32, 0, 4, 1),
    },
    ("disentangled", "wide-d64"): {
        "sm75": Launch(16, 16, 0, 4, 1), AMPERE: Launch(32, 32, 0, 4, 2),
        "gfx90a": Launch(32, 32, 0, 4, 1),
    },
    ("disentangled", "wide-d128"): {
        "sm75": Launch(16, 16, 0, 8, 1), AMPERE: Launch(16, 16, 0, 4, 2),
        "gfx90a": Launch(16, 16, 0, 4, 1),
    },
    # Looking up the block table costs registers.
    ("prefill", "half-d64"): {
        "sm75": Launch(64, 32, 0, 4, 1), AMPERE: Launch(128, 64, 0, 4, 3),
        "sm90": Launch(128, 64, 0, 4, 2), "gfx90a": Launch(128, 32, 0, 4, 1),
    },
    ("prefill", "half-d128"): {
        "sm75": Launch(32, 32, 0, 4, 1), AMPERE: Launch(128, 64, 0, 8, 3),
        "sm90": Launch(128, 64, 0, 8, 3), "gfx90a": Launch(128, 32, 0, 4, 1),
    },
    ("prefill", "half-d256"): {
        "sm75": Launch(16, 32, 0, 4, 1), AMPERE: Launch(64, 32, 0, 4, 3),
        "sm90": Launch(128, 64, 0, 8, 2), "gfx90a": Launch(64, 32, 0, 4, 1),
    },
    # A few new tokens per sequence: short chunks, speculative decoding.
    ("prefill", "half-d64-short-qlen"): {
        "sm75": Launch(16, 32, 0, 4, 1), AMPERE: Launch(16, 64, 0, 4, 3),
        "sm90": Launch(16, 64, 0, 4, 3), "gfx90a": Launch(16, 64, 0, 4, 1),
    },
    ("prefill", "half-d128-short-qlen"): {
        "sm75": Launch(16, 32, 0, 4, 1), AMPERE: Launch(16, 64, 0, 4, 3),
        "sm90": Launch(16, 64, 0, 4, 3), "gfx90a": Launch(16, 32, 0, 4, 1),
    },
    ("prefill", "half-d256-short-qlen"): {
        "sm75": Launch(16, 16, 0, 4, 1), AMPERE: Launch(16, 32, 0, 4, 3),
        "sm90": Launch(16, 64, 0, 4, 3), "gfx90a": Launch(16, 16, 0, 4, 1),
    },
    ("prefill", "half-d512-short-qlen"): {
        "sm75": Launch(16, 16, 0, 8, 1), AMPERE: Launch(16, 16, 0, 4, 2),
        "sm90": Launch(16, 32, 0, 4, 2), "gfx90a": Launch(16, 16, 0, 4, 1),
    },
    ("decode", "half-d64"): {
        "sm75": Launch(0, 32, 0, 4, 1), AMPERE: Launch(0, 64, 0, 4, 3),
        "sm90": Launch(0, 128, 0, 4, 2), "gfx90a": Launch(0, 64, 0, 4, 1),
    },
    ("decode", "half-d128"): {
        "sm75": Launch(0, 32, 0, 4, 1), AMPERE: Launch(0, 64, 0, 4, 2),
        "sm90": Launch(0, 64, 0, 4, 2), "gfx90a": Launch(0, 64, 0, 4, 1),
    },
    # More than 16 query heads share their keys.
    ("decode", "half-d64-grouped"): {
        "sm75": Launch(0, 16, 0, 8, 1), AMPERE: Launch(0, 32, 0, 4, 3),
        "sm90": Launch(0, 32, 0, 4, 4), "gfx90a": Launch(0, 32, 0, 4, 1),
    },
    ("decode", "half-d128-grouped"): {
        "sm75": Launch(0, 16, 0, 8, 1), AMPERE: Launch(0, 32, 0, 4, 2),
        "sm90": Launch(0, 32, 0, 4, 2), "gfx90a": Launch(0, 32, 0, 4, 1),
    },
    ("decode", "half-d256"): {
        "sm75": Launch(0, 16, 0, 4, 1), AMPERE: Launch(0, 32, 0, 4, 2),
        "sm90": Launch(0, 64, 0, 8, 2), "gfx90a": Launch(0, 32, 0, 4, 1),
    },
    ("decode", "half-d512"): {
        "sm75": Launch(0, 16, 0, 8, 1), AMPERE: Launch(0, 16, 0, 4, 2),
        "sm80": Launch(0, 16, 0, 8, 2), "sm90": Launch(0, 32, 0, 4, 2),
        "gfx90a": Launch(0, 16, 0, 4, 1),
    },
    ("decode", "wide-d64"): {
        "sm75": Launch(0, 32, 0, 4, 1), AMPERE: Launch(0, 32, 0, 4, 2),
        "sm90": Launch(0, 64, 0, 4, 2), "gfx90a": Launch(0, 32, 0, 4, 1),
    },
    ("decode", "wide-d128"): {
        "sm75": Launch(0, 16, 0, 4, 1), AMPERE: Launch(0, 32, 0, 4, 2),
        "sm90": Launch(0, 32, 0, 4, 2), "gfx90a": Launch(0, 32, 0, 4, 1),
    },
    ("decode", "wide-d256"): {
        "sm75": Launch(0, 16, 0, 4, 1), AMPERE: Launch(0, 16, 0, 4, 2),
        "sm90": Launch(0, 16, 0, 4, 2), "gfx90a": Launch(0, 16, 0, 4, 1),
    },
    # Heads and keys; rows have 512 + 64 features, which float32 has no registers for.
    ("latent", "half"): {
        "sm75": Launch(8, 16, 0, 8, 1), AMPERE: Launch(16, 32, 0, 4, 2),
        "sm90": Launch(16, 64, 0, 8, 2), "gfx90a": Launch(16, 16, 0, 4, 1),
    },
    ("latent", "half-grouped"): {
        "sm75": Launch(8, 16, 0, 8, 1), AMPERE: Launch(32, 32, 0, 8, 2),
        "sm90": Launch(64, 32, 0, 8, 2),
        "gfx90a": Launch(16, 16, 0, 4, 1),
    },
    ("quantized", "half-decode"): {
        "sm75": Launch(16, 64, 32, 4, 1), AMPERE: Launch(16, 64, 64, 4, 3),
        "sm90": Launch(16, 128, 64, 4, 4), "gfx90a": Launch(16, 64, 64, 4, 1),
    },
    ("quantized", "half-prefill"): {
        "sm75": Launch(32, 64, 32, 4, 1), AMPERE: Launch(64, 128, 32, 4, 3),
        "sm90": Launch(128, 128, 64, 8, 3), "gfx90a": Launch(64, 128, 32, 4, 1),
    },
    ("quantized", "wide-decode"): {
        "sm75": Launch(16, 32, 32, 4, 1), AMPERE: Launch(16, 64, 32, 4, 2),
        "sm90": Launch(16, 64, 32, 4, 2), "gfx90a": Launch(16, 64, 32, 4, 1),
    },
    ("quantized", "wide-prefill"): {
        "sm75": Launch(32, 32, 32, 4, 1), AMPERE: Launch(32, 64, 32, 4, 2),
        "sm90": Launch(64, 64, 32, 4, 2), "gfx90a": Launch(32, 64, 32, 4, 1),
    },
    ("experts", "half-decode"): {
        "sm75": Launch(16, 64, 32, 4, 1), AMPERE: Launch(16, 64, 64, 4, 3),
        "sm90": Launch(16, 64, 128, 4, 4), "gfx90a": Launch(16, 64, 64, 4, 1),
    },
    # A tile is whole groups of 32 inputs.
    ("mxfp4", "half-decode"): {
        "sm75": Launch(16, 64, 32, 4, 1), AMPERE: Launch(16, 64, 64, 4, 3),
        "sm90": Launch(16, 64, 128, 4, 4), "gfx90a": Launch(16, 64, 64, 4, 1),
    },
    ("mxfp4", "half-prefill"): {
        "sm75": Launch(32, 32, 32, 4, 1), AMPERE: Launch(64, 128, 32, 4, 3),
        "sm90": Launch(128, 128, 64, 8, 3), "gfx90a": Launch(64, 128, 32, 4, 1),
    },
    ("mxfp4", "wide-prefill"): {
        "sm75": Launch(32, 32, 32, 4, 1), AMPERE: Launch(32, 64, 32, 4, 2),
        "gfx90a": Launch(32, 64, 32, 4, 1),
    },
    ("dequantize", "half"): {AMPERE: Launch(0, 128, 32)},
    ("gemv", "dense"): {AMPERE: Launch(0, 2, 1024)},
    ("gemv", "int4"): {AMPERE: Launch(0, 64, 128)},
    # Tokens and channels.
    ("conv", "decode"): {AMPERE: Launch(1, 256)},
    ("conv", "prefill"): {AMPERE: Launch(32, 64)},
    # Columns of a head's state.
    ("delta-step", "d64"): {AMPERE: Launch(0, 64)},
    ("delta-step", "d128"): {AMPERE: Launch(0, 32)},
    ("delta-step", "d256"): {AMPERE: Launch(0, 16)},
    # Rows of a head's state.
    ("scan2-step", "d64"): {AMPERE: Launch(0, 64)},
    ("scan2-step", "d128"): {AMPERE: Launch(0, 32)},
    ("scan2-step", "d256"): {AMPERE: Launch(0, 16)},
    # Numbers of the states of some channels.
    ("channel-scan", "all"): {AMPERE: Launch(0, 1024, 0, 2)},
    # Tokens of a chunk, and rows.
    ("scan2-chunk", "half-d64"): {
        "sm75": Launch(16, 16, 0, 8, 1), AMPERE: Launch(32, 32, 0, 4, 1),
        "sm90": Launch(16, 16, 0, 8, 1), "gfx90a": Launch(32, 32, 0, 4, 1),
    },
    ("scan2-chunk", "half-d128"): {
        "sm75": Launch(16, 16, 0, 8, 1), AMPERE: Launch(16, 16, 0, 8, 1),
        "gfx90a": Launch(32, 32, 0, 4, 1),
    },
    # Tokens of a chunk, and columns. More would take more registers than there are.
    ("delta-chunk", "d64"): {
        "sm75": Launch(16, 32, 0, 8, 1), AMPERE: Launch(32, 16, 0, 4, 1),
        "gfx90a": Launch(32, 32, 0, 4, 1),
    },
    ("delta-chunk", "d128"): {
        "sm75": Launch(16, 16, 0, 8, 1), AMPERE: Launch(32, 16, 0, 4, 1),
        "gfx90a": Launch(32, 32, 0, 4, 1),
    },
}  # fmt: skip

# Rows that are equal to others.
SAME = {
    ("prefill", "half-d64-sinks"): ("flash", "half-d64-sinks"),
    ("prefill", "half-d128-softcap"): ("flash", "half-d128-softcap"),
    ("prefill", "half-d256-softcap"): ("flash", "half-d256-softcap"),
    ("prefill", "half-d512"): ("flash", "half-d512"),
    ("prefill", "wide-d64"): ("flash", "wide-d64"),
    ("prefill", "wide-d128"): ("flash", "wide-d128"),
    ("prefill", "wide-d256"): ("flash", "wide-d256"),
    ("mxfp4", "wide-decode"): ("quantized", "wide-decode"),
    ("experts", "half-prefill"): ("quantized", "half-prefill"),
    ("experts", "wide-decode"): ("quantized", "wide-decode"),
    ("experts", "wide-prefill"): ("quantized", "wide-prefill"),
    ("scan2-chunk", "wide-d64"): ("scan2-chunk", "half-d128"),
}

# Tests of the interpreter use tiles so small that short sequences cross several of them.
SMALL = {
    "flash": Launch(16, 16), "prefill": Launch(16, 16), "decode": Launch(0, 16),
    "latent": Launch(16, 16), "disentangled": Launch(16, 16),
    "mxfp4": Launch(16, 32, 64),
    "quantized": Launch(16, 32, 32), "experts": Launch(16, 32, 16), "gemv": Launch(0, 16, 32),
    "dequantize": Launch(0, 16, 32), "conv": Launch(4, 8), "delta-step": Launch(0, 16),
    "delta-chunk": Launch(16, 16), "scan2-step": Launch(0, 16), "scan2-chunk": Launch(16, 16),
    "channel-scan": Launch(0, 256),
}  # fmt: skip
