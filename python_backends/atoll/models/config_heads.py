"""Heads and caches that differ from layer to layer: config.json's keys of Gemma 4."""

from __future__ import annotations

from atoll.errors import ConfigError
from atoll.layers.attention import Heads
from atoll.weights.json_fields import Fields

_KV_HEADS, _SAVED = "num_key_value_heads", "per_layer_config"


def read_whole_heads(f: Fields, heads: Heads, windows: tuple[int | None, ...]) -> Heads:
    """The heads of layers that see the whole text; ``heads``: of those with a window.

    Raises:
        ConfigError: key-value heads do not divide the others, or layers of a kind differ.
    """
    if f.has(_SAVED):
        return _saved_heads(f, heads, windows)
    names = ("num_global_key_value_heads",)
    num_kv_heads = heads.num_kv_heads
    if f.flag("attention_k_eq_v"):
        num_kv_heads = f.size(*names, default=num_kv_heads, nullable=True)
        f.divided(heads.num_heads, ("num_attention_heads",), num_kv_heads, names)
    return Heads(heads.num_heads, num_kv_heads, f.size("global_head_dim"))


def _saved_heads(f: Fields, heads: Heads, windows: tuple[int | None, ...]) -> Heads:
    """The same, where transformers has saved by layer what differs from ``heads``."""
    layers, num_layers = f.inside(_SAVED), len(windows)
    if not set(layers.raw) <= {str(layer) for layer in range(num_layers)}:
        raise f.wrong(f"an object with keys from 0 to {num_layers - 1}", _SAVED)
    found = [_layer_heads(layers, str(layer), heads) for layer in range(num_layers)]
    for layer, window in enumerate(windows):
        if found[layer] != (found[-1] if window is None else heads):
            raise layers.wrong("what the other layers of its kind have", str(layer))
    return found[-1]


def _layer_heads(layers: Fields, layer: str, heads: Heads) -> Heads:
    own = layers.inside(layer)
    if not set(own.raw) <= {_KV_HEADS, "head_dim"}:
        raise layers.wrong(f"head_dim and {_KV_HEADS} alone", layer)
    num_kv_heads = own.size(_KV_HEADS, default=heads.num_kv_heads)
    own.divided(heads.num_heads, ("num_attention_heads",), num_kv_heads, (_KV_HEADS,))
    return Heads(heads.num_heads, num_kv_heads, own.size("head_dim", default=heads.head_dim))


def read_shared_with(f: Fields, windows: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The layer whose keys and values each layer reads: the last of its kind that has its own.

    Raises:
        ConfigError: of one kind, all layers would read others'.
    """
    num_layers = len(windows)
    first = num_layers - f.count("num_kv_shared_layers", default=0, most=num_layers - 1)
    last = {window: layer for layer, window in enumerate(windows[:first])}
    if set(windows) - set(last):
        raise ConfigError(
            f"{f.source}: num_kv_shared_layers is {num_layers - first}: of one kind of layer_types "
            "no layer is left whose keys and values the others could read"
        )
    return (None,) * first + tuple(last[window] for window in windows[first:])
