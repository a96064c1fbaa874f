"""What config.json of several architectures have in common, read by ``weights.fields``."""

from __future__ import annotations

from typing import NamedTuple

from atoll.errors import ConfigError
from atoll.weights.json_fields import Fields
from atoll_kernels import ACTIVATIONS


class Heads(NamedTuple):
    """Query heads, key-value heads, and the features of each."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


def activation(fields: Fields, *names: str, default: str) -> str:
    """The activation that a key names.

    Raises:
        ConfigError: it is not known; names the key, the value and what is known.
    """
    return known_activation(fields, fields.text(*names, default=default), *names)


def known_activation(fields: Fields, activation: str, *names: str) -> str:
    """``activation``, which was read from one of ``names``, if kernels have it."""
    if activation not in ACTIVATIONS:
        raise fields.wrong(f"one of {', '.join(ACTIVATIONS)}", *names)
    return activation


def heads(
    fields: Fields,
    hidden_size: int,
    hidden_names: tuple[str, ...] = ("hidden_size",),
    head_names: tuple[str, ...] = ("num_attention_heads",),
    kv_names: tuple[str, ...] = (),
    dim_name: str | None = None,
) -> Heads:
    """The heads of an attention; as many key-value heads as others where none of ``kv_names`` is.

    Args:
        dim_name: the key of their width; ``hidden_size`` is divided where it is absent.

    Raises:
        ConfigError: heads do not divide what they share; names both keys.
    """
    num_heads = fields.size(*head_names)
    if dim_name is not None and fields.has(dim_name):
        head_dim = fields.size(dim_name)
    else:
        head_dim = fields.divided(hidden_size, hidden_names, num_heads, head_names)
    if not kv_names:
        return Heads(num_heads, num_heads, head_dim)
    num_kv_heads = fields.size(*kv_names, default=num_heads, nullable=True)
    fields.divided(num_heads, head_names, num_kv_heads, kv_names)
    return Heads(num_heads, num_kv_heads, head_dim)


def check_width(fields: Fields, width: int, most: int, *names: str) -> int:
    """A rotated width of a head: even, and no wider than the head.

    Raises:
        ConfigError: it is not; names the key.
    """
    if width < 2 or width % 2 or width > most:
        raise ConfigError(
            f"{fields.source}: {fields.name(*names)} gives {width} rotated features of a head of "
            f"{most}; expected an even number of them"
        )
    return width
