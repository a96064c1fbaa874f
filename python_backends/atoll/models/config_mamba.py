"""What config.json of models with Mamba layers have in common."""

from __future__ import annotations

import math

from atoll.errors import ConfigError
from atoll.layers.mamba2 import Mamba2Spec
from atoll.weights.json_fields import Fields

# Tokens of the longest text of a model whose memory does not grow with it, and without positions.
UNBOUNDED = 1 << 20


def read_hybrid_mamba2(fields: Fields, hidden_size: int, inner_size: int | None) -> Mamba2Spec:
    """The Mamba-2 layers of models whose keys begin with ``mamba_`` (Bamba, Granite 4, Falcon-H1).

    Args:
        inner_size: features of all heads, where the file gives them by another key than
            ``mamba_expand``.

    Raises:
        ConfigError: heads do not make up the inner features; names the keys.
    """
    f = fields
    num_heads = f.size("mamba_n_heads", default=128)
    names = "mamba_d_ssm"
    if inner_size is None:
        inner_size = hidden_size * f.size("mamba_expand", default=2)
        names = "hidden_size and mamba_expand (or mamba_d_ssm)"
    head_dim = head_width(f, inner_size, names, num_heads, "mamba_n_heads")
    if f.raw.get("mamba_d_head", "auto") != "auto":
        given = f.size("mamba_d_head")
        if given != head_dim:
            raise f.wrong(f"{head_dim}, by mamba_n_heads and {names}, or 'auto'", "mamba_d_head")
    num_groups = f.size("mamba_n_groups", default=1)
    f.divided(num_heads, ("mamba_n_heads",), num_groups, ("mamba_n_groups",))
    return Mamba2Spec(
        num_heads=num_heads,
        head_dim=head_dim,
        num_groups=num_groups,
        state_size=f.size("mamba_d_state", default=256),
        conv_width=conv_width(f, "mamba_d_conv", 4),
        in_bias=f.flag("mamba_proj_bias", default=False),
        conv_bias=f.flag("mamba_conv_bias", default=True),
        out_bias=f.flag("mamba_proj_bias", default=False),
        eps=f.number("rms_norm_eps", default=1e-6),
        dt_limits=time_step_limits(f),
    )


def head_width(
    fields: Fields, inner_size: int, inner_names: str, num_heads: int, heads_name: str
) -> int:
    """Features of a head.

    Raises:
        ConfigError: the heads do not divide the inner features; names what they follow from.
    """
    if inner_size % num_heads:
        raise ConfigError(
            f"{fields.source}: {inner_names} give {inner_size} features, which {heads_name}, "
            f"{num_heads}, does not divide"
        )
    return inner_size // num_heads


def conv_width(fields: Fields, name: str, default: int) -> int:
    """Tokens that a convolution sees: 2 or more, as one alone has no state.

    Raises:
        ConfigError: it is another value; names the key.
    """
    return fields.count(name, default=default, least=2, most=64)


def time_step_limits(fields: Fields, name: str = "time_step_limit") -> tuple[float, float]:
    """The least and the greatest time step.

    Raises:
        ConfigError: it is no such pair; names the key.
    """
    if name not in fields.raw:
        return 0.0, math.inf
    value = fields.raw[name]
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise fields.wrong("two numbers from 0 on", name)
    # transformers 5 writes infinity so, as JSON has none.
    limits = [math.inf if v == {"__float__": "Infinity"} else v for v in value]
    if not all(type(v) in (int, float) and v >= 0 for v in limits) or not limits[0] < limits[1]:
        raise fields.wrong("two ascending numbers from 0 on", name)
    return float(limits[0]), float(limits[1])


def layer_kinds(fields: Fields, name: str, num_layers: int, *known: str) -> tuple[str, ...]:
    """What each layer is, by a list of config.json; none where there is no list.

    Args:
        known: kinds that the family has.

    Raises:
        ConfigError: another number of layers, or a kind that is not known; names the key.
    """
    kinds = fields.texts(name)
    if not fields.has(name):
        return ()
    if len(kinds) != num_layers:
        raise fields.wrong(f"one for each of num_hidden_layers, {num_layers}", name)
    other = sorted(set(kinds) - set(known))
    if other:
        raise ConfigError(f"{fields.source}: {name} has {other}; supported: {', '.join(known)}")
    return kinds


def places(is_counted: list[bool]) -> list[int]:
    """For each layer, how many of the counted kind come before it: its index among them."""
    return [sum(is_counted[:layer]) for layer in range(len(is_counted))]
