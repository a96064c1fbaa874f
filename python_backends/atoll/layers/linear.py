"""A linear layer over tokens; the weight is packed at load for the machine it runs on."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers import parallel
from atoll.weights.gguf.codes import packed_blocks
from atoll.weights.gguf.eight_bits import packed_bytes
from atoll.weights.layer_tensors import LayerTensors, Mismatch
from atoll.weights.load import LoadOptions
from atoll.weights.mxfp4 import is_mxfp4, read_mxfp4
from atoll.weights.parts import Part
from atoll.weights.quantized_layers import Codes, expand, is_quantized, packed_codes
from atoll.weights.quantized_windows import Shape


class Linear(nn.Module):
    """``x @ weight.T + bias``. ``bias`` says whether the checkpoint has one.

    Built on the meta device; ``load`` fills it. ``quantizable=False`` keeps it dense whatever the
    scheme (small heads). ``rows``: the output features of each part that a fused projection may be
    stored in; equal shares without it.

    Of a layer that several ranks split, ``in_features`` or ``out_features`` is this rank's part
    (``layers.parallel``). With a part of the inputs the outputs are partial sums, one of which has
    the bias.

    is_adaptable: whether LoRA adapters may change it. zero_biases: parts of a fused projection
    whose bias no checkpoint of the family has, and is zero.
    """

    is_adaptable = True

    def __init__(
        self,
        in_features: int | Part,
        out_features: int | Part,
        bias: bool = True,
        quantizable: bool = True,
        rows: Sequence[int] | None = None,
        zero_biases: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.rows = Part.of(in_features), Part.of(out_features), rows
        self.zero_biases = zero_biases
        self.in_features, self.out_features = len(self.inputs), len(self.outputs)
        self.quantizable = quantizable
        shape = (self.out_features, self.in_features)
        self.weight = nn.Parameter(torch.empty(shape), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(shape[0]), requires_grad=False) if bias else None
        self.packed: kernels.PackedLinear | None = None

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """x: (tokens, in_features) -> (tokens, out_features)."""
        assert self.packed is not None, "load() comes first"
        return kernels.linear(x, self.packed, activation)

    def gated(self, x: Tensor, activation: str) -> Tensor:
        """``activation`` of the first half of the outputs times the second half.

        x: (tokens, in_features) -> (tokens, out_features / 2).
        """
        assert self.packed is not None, "load() comes first"
        return kernels.gated_linear(x, self.packed, activation)

    @property
    def device(self) -> torch.device:
        """Where the packed weight is."""
        assert self.packed is not None, "load() comes first"
        return self.packed.tensors[0].device

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads, expands, converts and packs the weight; errors as in ``LayerTensors.get``."""
        bias = group.bias(self.outputs, self.bias is not None, self.rows, self.zero_biases)
        if self.inputs.span.start > 0:
            bias = None
        if is_mxfp4(group, options.quantization):
            self._load_mxfp4(group, bias, options)
            return
        # The head decides between words: at 4 bits it costs more quality than all other layers.
        is_head = group.target == "lm_head"
        found = self._codes(group, options)
        if found is not None:
            bias = None if bias is None else bias.to(options.device, options.dtype)
            self.packed = kernels.pack_int4(*found, bias, options.dtype)
            return
        if self.quantizable and options.keeps_bytes:
            shape = Shape(self.outputs, self.inputs, self.rows)
            wide = packed_bytes(group, shape, options.device)
            if wide is not None:
                bias = None if bias is None else bias.to(options.device, options.dtype)
                self.packed = kernels.pack_int8_groups(*wide, bias, options.dtype)
                return
        self._pack(self.dense(group, options), bias, options, is_head)

    def dense(self, group: LayerTensors, options: LoadOptions) -> Tensor:
        """The weight (out_features, in_features), expanded if the checkpoint is quantised."""
        if not self._is_quantized(group, options):
            return group.get("weight", (self.outputs, self.inputs), self.rows)
        shape = Shape(self.outputs, self.inputs, self.rows)
        return expand(group, shape, options.quantization, options.dtype, options.device)

    def _codes(self, group: LayerTensors, options: LoadOptions) -> Codes | None:
        """What is stored in 4 bits and stays so; None: the weight has to be expanded."""
        shape = Shape(self.outputs, self.inputs, self.rows)
        if options.scheme == "int8":
            return None
        if self._is_quantized(group, options):
            return packed_codes(group, shape, options.quantization, options.device)
        if not (self.quantizable and options.keeps_blocks):
            return None
        return packed_blocks(group, shape, options.device)

    def _load_mxfp4(self, group: LayerTensors, bias: Tensor | None, options: LoadOptions) -> None:
        """Packs what the file has, whatever the scheme: rounding it again would cost quality."""
        device, dtype = options.device, options.dtype
        blocks, scales = read_mxfp4(group, self.outputs, self.inputs, options.quantization)
        bias = None if bias is None else bias.to(device, dtype)
        try:
            self.packed = kernels.pack_mxfp4(blocks.to(device), scales.to(device), bias, dtype)
        except ValueError as error:
            name = group.name(group.parts()[0], "scales")
            raise Mismatch(f"{group.reader.folder}: tensor {name!r}: {error}") from error

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Shares the weight of an embedding; a bias is the layer's own."""
        assert isinstance(source.weight, Tensor)
        bias = group.bias(self.outputs, self.bias is not None)
        self._pack(source.weight.detach(), bias, options, is_head=True)

    def _is_quantized(self, group: LayerTensors, options: LoadOptions) -> bool:
        source = group.input_scales_source if options.quantization is not None else None
        is_scaled = source is not None and group.has_part(source, "scales")
        return is_scaled or any(is_quantized(group, part) for part in group.parts())

    def _pack(
        self, weight: Tensor, bias: Tensor | None, options: LoadOptions, is_head: bool
    ) -> None:
        scheme = options.scheme if self.quantizable else "dense"
        scheme = "int8" if is_head and scheme == "int4" else scheme
        weight = weight.to(options.device, options.dtype)
        bias = None if bias is None else bias.to(options.device, options.dtype)
        self.packed = kernels.pack_linear(weight, bias, scheme, options.group_size)


class Head(Linear):
    """Scores of the vocabulary, whose rows are divided over the ranks."""

    # It computes only selected rows of the batch.
    is_adaptable = False

    def __init__(self, hidden_size: int, vocab_size: int, bias: bool = False) -> None:
        super().__init__(hidden_size, parallel.vocabulary(vocab_size), bias)
        self.shard = parallel.current()

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """x: (rows, hidden) -> (rows, vocab) on every rank."""
        scores = super().forward(x, activation)
        if not self.shard.is_split:
            return scores
        # In the activations' dtype, and without the rows that only fill a rank's part up.
        return parallel.gather(scores, self.shard)[:, : self.outputs.total].contiguous()


class WordBias(nn.Module):
    """What is added to the scores of all words: a tensor (1, vocab) of its own name.

    A file without it has none, as in transformers.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.bias: Tensor | None = None

    def forward(self, scores: Tensor) -> Tensor:
        """scores: (rows, vocab) float32 -> the same."""
        return scores if self.bias is None else scores + self.bias

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads it.

        Raises:
            WeightError: it has another shape or is not of floating point; names it.
        """
        (name,), reader = group.full_names(), group.reader
        if name not in reader:
            return
        shape = reader.shape(name)
        stored = reader.tensor(name)
        if shape != (1, self.vocab_size) or not stored.is_floating_point():
            raise Mismatch(
                f"{reader.folder}: tensor {name!r} is {stored.dtype} of shape {shape}; expected "
                f"floating point of shape {(1, self.vocab_size)}, by vocab_size"
            )
        self.bias = stored[0].float().to(options.device) if stored.any() else None

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Biases are never tied."""
        raise AssertionError("a bias cannot be tied")


class HeadRows(Linear):
    """Scores of a few words of the vocabulary: of the head's matrix, only their rows are kept."""

    is_adaptable = False

    def __init__(
        self, hidden_size: int, vocab_size: int, words: Sequence[int], bias: bool = False
    ) -> None:
        """words: ids, in the order of the scores."""
        super().__init__(hidden_size, vocab_size, bias, quantizable=False)
        self.words = list(words)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """As ``Linear.load``; the rows are held in the activations' dtype."""
        bias = group.bias(self.outputs, self.bias is not None)
        self._pack(self.dense(group, options), bias, options, is_head=True)

    def _pack(
        self, weight: Tensor, bias: Tensor | None, options: LoadOptions, is_head: bool
    ) -> None:
        bias = None if bias is None else bias[self.words]
        super()._pack(weight[self.words], bias, options, is_head)
