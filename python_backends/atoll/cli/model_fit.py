"""Whether a model fits on this machine, by its config: no weight is read.

``atoll info`` shows what each of several GPUs would hold, ``atoll doctor --model`` how many are
needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll.catalogue import Detected, Entry, decide
from atoll.cgroup import available_memory
from atoll.cli.checks import Finding
from atoll.cli.choose import catalogue_entry
from atoll.config import Settings
from atoll.errors import AtollError
from atoll.weights.files import resolve
from atoll.weights.modules import transformer_folder

if TYPE_CHECKING:
    from atoll.models.rank_shares import RankShare

MOST_GPUS = 16
# Of a device's memory; the rest is for the cache and activations.
WEIGHT_SHARE = 0.8
_GB = 1e9


def named(model: str) -> tuple[Entry | None, str, Mapping[str, Any]]:
    """The catalogue's entry of that name, if it has one; the model's id; the entry's settings."""
    known = catalogue_entry(model)
    return (known, known.model_id, dict(known.settings)) if known else (None, model, {})


def weight_bytes(folder: Path) -> int:
    """Size of the checkpoint's weight files; 0 if they are not here."""
    from atoll.weights.gguf.index import Index, is_gguf

    if is_gguf(folder):
        return sum(source.size for source in Index.load(folder).sources)
    files = [*folder.glob("*.safetensors")] or [*folder.glob("*.bin")]
    return sum(file.stat().st_size for file in files if file.is_file())


def shares_of(folder: Path, detected: Detected, settings: Settings) -> list[RankShare]:
    """What each of several GPUs would hold of a generator, for the numbers that it is divided by.

    With the settings' dtype and quantisation, activations in 16 bits unless that says otherwise.
    Empty for models that cannot be divided.
    """
    if detected.runs_on != "native" or detected.task not in ("generate", "transcribe"):
        return []
    import torch

    from atoll.models import families, registry
    from atoll.models.rank_shares import Storage, rank_shares
    from atoll.weights.quantization import Quantization, scheme_for

    raw = registry.Checkpoint.open(folder).raw
    module = registry.architecture(raw, families.DECODERS)
    scheme = settings.dtype if settings.dtype in ("int8", "int4") else "dense"
    storage = Storage(
        torch.float32 if settings.dtype == "float32" else torch.float16,
        scheme if settings.quantize is None else scheme_for(settings.quantize),
        Quantization.read(folder, raw),
        getattr(torch, settings.state_dtype),
    )
    return rank_shares(module, module.Config.from_hf(raw), storage, range(1, MOST_GPUS + 1))


def fit(model: str, gpu_bytes: Sequence[int]) -> Finding:
    """How many GPUs hold the model, and whether they are here.

    model: as ``atoll info`` takes it. gpu_bytes: memory of each GPU; empty: the CPU's is used.
    """
    try:
        _, model_id, own = named(model)
        folder = resolve(model_id, None, with_weights=False)
        settings = Settings.read({"model_id": model_id, **own})
        shares = shares_of(transformer_folder(folder), decide(folder, settings), settings)
    except AtollError as error:
        return Finding(model, "fail", str(error), "see the message")
    if not shares:
        from atoll.models.rank_shares import RankShare

        # Such a model is never divided: its files say what it takes.
        shares = [RankShare(1, weight_bytes(transformer_folder(folder)), 0)]
    return _judged(model, shares, gpu_bytes)


def _judged(model: str, shares: Sequence[RankShare], gpu_bytes: Sequence[int]) -> Finding:
    memory = min(gpu_bytes) if gpu_bytes else available_memory()
    where = f"a GPU of {memory / _GB:.0f} GB" if gpu_bytes else f"{memory / _GB:.0f} GB of memory"
    whole = f"{shares[0].weight_bytes / _GB:.2f} GB of weights"
    fitting = [share for share in shares if share.weight_bytes <= memory * WEIGHT_SHARE]
    if not fitting:
        found = f"{whole}; even {shares[-1].num_shard} parts do not fit, each in {where}"
        return Finding(model, "fail", found, "more memory, or --dtype int8 or int4")
    least = fitting[0]
    if least.num_shard == 1:
        return Finding(model, "ok", f"{whole} fit in {where}")
    if not gpu_bytes:
        found = f"{whole} do not fit in {where}"
        return Finding(model, "fail", found, "more memory, or --dtype int8 or int4")
    found = (
        f"{whole} need {least.num_shard} GPUs: each {least.weight_bytes / _GB:.2f} GB, and "
        f"{least.cache_bytes_per_token / 1e3:.1f} kB of cache a token; {len(gpu_bytes)} here"
    )
    if least.num_shard > len(gpu_bytes):
        return Finding(model, "fail", found, f"serve on {least.num_shard} GPUs of this size")
    return Finding(model, "warn", found, f"serve with --num-shard {least.num_shard}")
