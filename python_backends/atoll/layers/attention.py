"""Attention over a batch: bidirectional without a cache, or causal over the paged KV cache."""

import torch
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers.batch import Batch
from atoll.layers.rotary import Rotation


class PackedAttention(nn.Module):
    """Bidirectional attention inside each packed sequence."""

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        alibi_slopes: Tensor | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.scale = head_dim**-0.5 if scale is None else scale
        self.alibi_slopes = alibi_slopes

    def forward(self, qkv: Tensor, batch: Batch, relative_bias: Tensor | None = None) -> Tensor:
        """qkv: (tokens, 3 * num_heads * head_dim), [q; k; v] -> (tokens, num_heads * head_dim)."""
        q, k, v = qkv.view(-1, 3, self.num_heads, self.head_dim).unbind(1)
        self.alibi_slopes = _on(self.alibi_slopes, q.device)
        out = kernels.varlen_attention(
            q, k, v, batch.cu_seqlens, batch.cu_seqlens,
            kernels.AttentionArgs(
                self.scale, causal=False, alibi_slopes=self.alibi_slopes,
                relative_bias=relative_bias,
            ),
        )  # fmt: skip
        return out.flatten(1)


class PagedAttention(nn.Module):
    """Causal attention over the paged cache; rotates and writes the new keys and values first."""

    def __init__(
        self,
        layer: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        scale: float | None = None,
        window: int | None = None,
        alibi_slopes: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.layer, self.num_heads = layer, num_heads
        self.num_kv_heads, self.head_dim = num_kv_heads, head_dim
        self.scale = head_dim**-0.5 if scale is None else scale
        self.window, self.alibi_slopes = window, alibi_slopes

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[q; k; v] rows as (tokens, heads, head_dim) views."""
        heads = qkv.view(len(qkv), -1, self.head_dim)
        q, k, v = heads.split_with_sizes((self.num_heads, self.num_kv_heads, self.num_kv_heads), 1)
        return q, k, v

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        batch: Batch,
        rotation: Rotation | None = None,
        relative_bias: Tensor | None = None,
    ) -> Tensor:
        """q: (tokens, num_heads, head_dim); k, v: (tokens, num_kv_heads, head_dim).

        Mutates the layer's cache, and q and k if they are rotated. Returns (tokens, num_heads *
        head_dim).
        """
        k_cache, v_cache, group = batch.kv_cache[self.layer]
        assert batch.block_tables is not None and batch.seq_lens is not None
        slots, table = batch.slot_mappings[group], batch.block_tables[group]
        self.alibi_slopes = _on(self.alibi_slopes, q.device)
        if rotation is None:
            kernels.write_kv(k, v, k_cache, v_cache, slots)
        else:
            kernels.rope_write_kv(q, k, v, *rotation, k_cache, v_cache, slots)
        out = kernels.paged_attention(
            q, kernels.PagedKV(k_cache, v_cache, table, batch.seq_lens), batch.cu_seqlens,
            kernels.AttentionArgs(
                self.scale, causal=True, window=self.window, alibi_slopes=self.alibi_slopes,
                relative_bias=relative_bias,
            ),
        )  # fmt: skip
        return out.flatten(1)

    def cross(self, q: Tensor, batch: Batch) -> Tensor:
        """Attention to the encoder's outputs, which ``write`` put there; shapes as in forward."""
        assert batch.cross is not None, "an encoder-decoder needs cross"
        k_cache, v_cache, _ = batch.kv_cache[self.layer]
        out = kernels.paged_attention(
            q, kernels.PagedKV(k_cache, v_cache, batch.cross.block_table, batch.cross.seq_lens),
            batch.cu_seqlens, kernels.AttentionArgs(self.scale, causal=False),
        )  # fmt: skip
        return out.flatten(1)

    def write(self, k: Tensor, v: Tensor, batch: Batch) -> None:
        """Stores keys and values of encoder outputs; mutates the layer's cache."""
        k_cache, v_cache, _ = batch.kv_cache[self.layer]
        kernels.write_kv(k, v, k_cache, v_cache, batch.slot_mappings[0])


def _on(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    """Slopes are made when the model is built, before its device is known."""
    return tensor if tensor is None or tensor.device == device else tensor.to(device)
