"""How a checkpoint is quantised, and what ``--quantize`` asks for at load.

A quantised checkpoint is recognised by its config; its layers are read by ``quantized_layers``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.errors import ConfigError
from atoll.weights.json_fields import Fields
from atoll.weights.modules import read_object

METHODS = ("gptq", "awq", "mxfp4", "fp8")
GPTQ_BITS = (2, 3, 4, 8)
_FORMATS = "supported: gptq, gptq_v2"
# Where the method is said if not in config.json.
_FILES = (("quantize_config.json", "gptq"), ("quant_config.json", "awq"))

# TGI's names for --quantize -> the scheme of ``pack_linear``. gptq, awq, mxfp4 and fp8 say what the
# checkpoint already is; weights that are not quantised yet become what the name promises in size.
SCHEMES: Mapping[str, str] = {
    "awq": "dense",
    "bitsandbytes": "int8",
    "bitsandbytes-fp4": "int4",
    "bitsandbytes-nf4": "int4",
    "eetq": "int8",
    "fp8": "dense",
    "gptq": "dense",
    "int4": "int4",
    "int8": "int8",
    "mxfp4": "dense",
}


@dataclass(frozen=True)
class Quantization:
    """The layout of quantised layers.

    group_size: input features that share a scale; -1: all. zero_offset: added to stored zeros
    (GPTQ's first format stores them less one). act_order: whether groups are assigned in any order;
    None: the config does not say. symmetric: whether the codes' middle stands for zero throughout;
    None likewise. block: outputs and inputs that share a scale, in FP8 files; None: all do. source:
    the file that says so.
    """

    method: str
    bits: int
    group_size: int
    zero_offset: int = 0
    act_order: bool | None = None
    symmetric: bool | None = None
    block: tuple[int, int] | None = None
    source: str = field(default="config.json", compare=False)

    @classmethod
    def read(cls, folder: Path, raw: Mapping[str, Any]) -> "Quantization | None":
        """From config.json, quantize_config.json or quant_config.json; None: not quantised.

        Raises:
            ConfigError: a method, format or width that cannot be loaded; names it.
        """
        config = Fields(raw)
        if config.has("quantization_config"):
            found = config.inside("quantization_config")
            method = found.text("quant_method", "method").lower()
        else:
            files = ((folder / name, method) for name, method in _FILES)
            path, method = next(((p, m) for p, m in files if p.exists()), (None, ""))
            if path is None:
                return None
            found = Fields(read_object(path), str(path))
            method = found.text("quant_method", "method", default=method).lower()
        if method not in METHODS:
            raise found.wrong(f"one of {', '.join(METHODS)}", "quant_method", "method")
        return _READERS[method](found)

    @property
    def suffix(self) -> str:
        """What the names of quantised layers' tensors end with."""
        return {"mxfp4": "_blocks", "fp8": ".weight_scale_inv"}.get(self.method, ".qweight")

    def covers(self, module_name: str) -> bool:
        """Whether layers of ours may be quantised: in MXFP4 files only experts are."""
        return self.method != "mxfp4" or ".experts." in module_name

    def num_groups(self, in_features: int) -> int:
        """Groups of a layer's inputs."""
        return 1 if self.group_size < 0 else -(-in_features // self.group_size)


def scheme_for(quantize: str) -> str:
    """The ``pack_linear`` scheme that a value of ``--quantize`` asks for.

    Raises:
        ConfigError: unknown; lists what is known.
    """
    if quantize not in SCHEMES:
        raise ConfigError(f"quantize is {quantize!r}; supported: {', '.join(sorted(SCHEMES))}")
    return SCHEMES[quantize]


def _gptq(fields: Fields) -> Quantization:
    if fields.flag("is_marlin_format", default=False, nullable=True):
        raise ConfigError(f"{fields.source}: is_marlin_format: GPTQ format 'marlin'; {_FORMATS}")
    name, form = _layout(fields, "checkpoint_format", "format", default="gptq")
    if form not in ("gptq", "gptq_v2"):
        raise ConfigError(f"{fields.source}: {name}: GPTQ format {form!r}; {_FORMATS}")
    if fields.inside("dynamic").raw:
        raise ConfigError(f"{fields.source}: dynamic, widths by layer, is not supported")
    bits = fields.size("bits")
    if bits not in GPTQ_BITS:
        raise ConfigError(f"{fields.source}: GPTQ with {bits} bits; supported: {GPTQ_BITS}")
    return Quantization(
        "gptq", bits, _group_size(fields, "group_size", default=-1), int(form == "gptq"),
        fields.flag("desc_act") if fields.has("desc_act") else None,
        fields.flag("sym") if fields.has("sym") else None,
        source=fields.source,
    )  # fmt: skip


def _awq(fields: Fields) -> Quantization:
    name, form = _layout(fields, "version", "checkpoint_format", "format", default="gemm")
    if form != "gemm":
        raise ConfigError(f"{fields.source}: {name}: AWQ version {form!r}; supported: gemm")
    if fields.raw.get("backend") == "llm-awq":
        raise ConfigError(f"{fields.source}: backend: AWQ version 'llm-awq'; supported: gemm")
    fields.only("zero_point", True)
    bits = fields.size("bits", "w_bit", default=4)
    if bits != 4:
        raise ConfigError(f"{fields.source}: AWQ with {bits} bits; supported: 4")
    size = _group_size(fields, "group_size", "q_group_size", default=128)
    return Quantization("awq", bits, size, source=fields.source)


def _mxfp4(fields: Fields) -> Quantization:
    # Which layers were left out, their tensors say.
    fields.texts("modules_to_not_convert")
    return Quantization("mxfp4", 4, 32, source=fields.source)


def _fp8(fields: Fields) -> Quantization:
    fields.texts("modules_to_not_convert")
    fields.only("fmt", "e4m3")
    fields.only("expert_dtype", "fp8")
    # How activations would be rounded, which they are not here.
    fields.only("activation_scheme", "dynamic", "static")
    name = "weight_block_size"
    if name in fields.raw and fields.raw[name] is None:
        return Quantization("fp8", 8, -1, source=fields.source)
    sizes = fields.counts(name) or (128, 128)
    if len(sizes) != 2 or 0 in sizes:
        raise fields.wrong("two whole numbers from 1, or null", name)
    return Quantization("fp8", 8, sizes[1], block=(sizes[0], sizes[1]), source=fields.source)


_READERS = {"gptq": _gptq, "awq": _awq, "mxfp4": _mxfp4, "fp8": _fp8}


def _layout(fields: Fields, *names: str, default: str) -> tuple[str, str]:
    """How tensors lie in the files, and the key that says so: older and newer writers name it
    differently, some in both ways, in either case."""
    found = {n: fields.text(n).lower() for n in names if fields.has(n)} or {names[0]: default}
    (name, form), *others = found.items()
    for other, value in others:
        if value != form:
            raise ConfigError(f"{fields.source}: {name} is {form!r} and {other} is {value!r}")
    return name, form


def _group_size(fields: Fields, *names: str, default: int) -> int:
    """A positive number of inputs, or -1 for all."""
    size = fields.count(*names, default=default, least=-1)
    if size == 0:
        raise fields.wrong("a whole number from 1, or -1", *names)
    return size
