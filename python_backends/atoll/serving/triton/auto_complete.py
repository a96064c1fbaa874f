"""Triton's auto-completion: a config.pbtxt that names only a checkpoint gets its task's tensors.

Imports nothing of Triton's; ``config`` is its ``ModelConfig``, which has setters and ``as_dict``.
"""

from __future__ import annotations

from typing import Any

from atoll.serving.triton.tensor_specs import TASK_TENSORS, TensorSpec


def complete(config: Any, task: str) -> Any:
    """Adds the task's tensors, batching and policy, unless the config has tensors.

    Sizes that depend on the checkpoint are left open (-1), since it is not read for this.
    """
    given = config.as_dict()
    if given.get("input") or given.get("output"):
        return config
    wire = TASK_TENSORS[task]
    config.set_max_batch_size(wire.max_batch_size)
    for spec in wire.inputs:
        config.add_input({**_tensor(spec), "optional": spec.optional})
    for spec in wire.outputs:
        config.add_output(_tensor(spec))
    if wire.max_batch_size:
        config.set_dynamic_batching()
    if wire.decoupled:
        config.set_model_transaction_policy({"decoupled": True})
    return config


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    dims = [dim if isinstance(dim, int) else -1 for dim in spec.dims]
    return {"name": spec.name, "data_type": f"TYPE_{spec.dtype}", "dims": dims}
