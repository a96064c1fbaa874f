"""The declared inputs and outputs of a model, and the check of requests against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from atoll_client.errors import ValidationError
from atoll_client.gateway.kserve import parameters
from atoll_client.gateway.kserve.tensors import SIZES, check_data, pack
from atoll_client.kserve import CLIENT, MAX_PRIORITY, prioritize

# Datatypes that classification can sort.
_SORTED = frozenset(SIZES) - {"BOOL", "FP16", "BF16"}
# The field of ``contents`` for each datatype, for values outside of raw_input_contents.
_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents",
    "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents",
    "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


class Declared(NamedTuple):
    """An input or output; a dimension of -1 has any size."""

    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """A model's inputs and outputs by name.

    Attributes:
        required: inputs that every request needs. is_batched: the first dimension is the batch.
        labels: outputs whose classes have names.
        is_ours: one of Atoll's models, which can cancel a request by its id.
    """

    model: str
    inputs: Mapping[str, Declared]
    outputs: Mapping[str, Declared]
    required: tuple[str, ...]
    is_decoupled: bool
    is_batched: bool
    labels: frozenset[str]
    is_ours: bool

    @classmethod
    def of(cls, metadata: Any, config: Any, is_ours: bool) -> Signature:
        """The signature of a model's metadata and config."""
        return cls(
            model=metadata.name,
            inputs=_declared(metadata.inputs),
            outputs=_declared(metadata.outputs),
            required=tuple(one.name for one in config.input if not one.optional),
            is_decoupled=config.model_transaction_policy.decoupled,
            is_batched=config.max_batch_size > 0,
            labels=frozenset(one.name for one in config.output if one.label_filename),
            is_ours=is_ours,
        )

    def check(self, message: Any) -> None:
        """Checks a ModelInferRequest, and converts its data to binary.

        Raises:
            ValidationError: names what is wrong, in Triton's words if it has the same check.
        """
        parameters.check_id(message.id)
        parameters.check(message.parameters)
        if message.raw_input_contents and any(t.HasField("contents") for t in message.inputs):
            raise ValidationError(
                "contents field must not be specified when using raw_input_contents "
                f"for model '{self.model}'"
            )
        _check_names("input", [tensor.name for tensor in message.inputs])
        for tensor in message.inputs:
            self._check_input(tensor, message.id)
        self._check_required([tensor.name for tensor in message.inputs], message.id)
        if not message.raw_input_contents:
            message.raw_input_contents.extend(map(_take_contents, message.inputs))
        if len(message.raw_input_contents) != len(message.inputs):
            raise ValidationError(
                f"there are {len(message.raw_input_contents)} raw_input_contents "
                f"for {len(message.inputs)} inputs of model '{self.model}'"
            )
        for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True):
            check_data(tensor.name, tensor.datatype, tensor.shape, raw)
        _check_names("output", [tensor.name for tensor in message.outputs])
        for tensor in message.outputs:
            self._check_output(tensor)

    def prioritize(self, message: Any, priority: int | None) -> None:
        """Orders a request to one of Atoll's models: by its `x-priority`, its `priority`, which
        Triton would keep to itself, or the request's own. Who asks, the gateway says.

        Raises:
            ValidationError: `priority` is too large.
        """
        if not self.is_ours:
            return
        message.parameters.pop(CLIENT, None)
        if "priority" in message.parameters:
            value = message.parameters["priority"]
            priority = value.int64_param or value.uint64_param
            if priority > MAX_PRIORITY:
                raise ValidationError(
                    f"parameter 'priority' is {priority}; the most allowed is {MAX_PRIORITY}"
                )
        prioritize(message, priority)

    def _check_input(self, tensor: Any, request_id: str) -> None:
        declared = self.inputs.get(tensor.name)
        if declared is None:
            raise ValidationError(
                f"unexpected inference input '{tensor.name[:100]}' for model '{self.model}'"
            )
        if tensor.datatype != declared.datatype:
            raise ValidationError(
                f"[request id: {request_id or '<id_unknown>'}] inference input '{tensor.name}' "
                f"data-type is '{tensor.datatype[:100]}', but model '{self.model}' expects "
                f"'{declared.datatype}'"
            )
        parameters.check_of_tensor("input", tensor.name, tensor.parameters, ())

    def _check_required(self, names: Sequence[str], request_id: str) -> None:
        """Triton only counts the inputs, and would call the model without a required one."""
        missing = [name for name in self.required if name not in names]
        if not missing:
            return
        least, most = len(self.required), len(self.inputs)
        expected = f"{most} inputs" if least == most else f"between {least} and {most} inputs"
        raise ValidationError(
            f"[request id: {request_id or '<id_unknown>'}] expected {expected} but got "
            f"{len(names)} inputs for model '{self.model}'. Got input(s) {list(names)}, but "
            f"missing required input(s) {missing}. Please provide all required input(s)."
        )

    def _check_output(self, tensor: Any) -> None:
        declared = self.outputs.get(tensor.name)
        if declared is None:
            raise ValidationError(
                f"unexpected inference output '{tensor.name[:100]}' for model '{self.model}'"
            )
        known = ("classification", "binary_data")
        parameters.check_of_tensor("output", tensor.name, tensor.parameters, known)
        if "classification" not in tensor.parameters:
            return
        count = tensor.parameters["classification"]
        if count.WhichOneof("parameter_choice") != "int64_param" or count.int64_param < 1:
            raise ValidationError(
                f"output '{tensor.name}': classification must be a number above 0"
            )
        if declared.datatype not in _SORTED:
            raise ValidationError(
                "class result not available for output due to unsupported type "
                f"'{declared.datatype}'"
            )
        if tensor.name in self.labels:
            raise ValidationError(
                f"output '{tensor.name}': the gateway gives no classification of outputs with "
                "labels; ask for the values"
            )


def _declared(tensors: Any) -> dict[str, Declared]:
    return {one.name: Declared(one.datatype, tuple(one.shape)) for one in tensors}


def _check_names(kind: str, names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise ValidationError(f"{kind} '{twice[:100]}' is there more than once")


def _take_contents(tensor: Any) -> bytes:
    """Removes an input's ``contents``, and returns them in binary."""
    wanted = _CONTENTS.get(tensor.datatype)
    given = [field.name for field, _ in tensor.contents.ListFields()]
    if any(name != wanted for name in given):
        raise ValidationError(
            f"unexpected explicit tensor data for input tensor '{tensor.name}': {given[0]}, "
            f"expected datatype '{tensor.datatype}'"
        )
    values = list(getattr(tensor.contents, wanted)) if wanted else []
    tensor.ClearField("contents")
    return pack(tensor.name, tensor.datatype, values) if wanted else b""
