"""What config.json of several architectures have in common, read by ``weights.fields``."""

from __future__ import annotations

from collections.abc import Callable

from atoll.errors import ConfigError
from atoll.layers.attention import Heads
from atoll.layers.rotary import RopeSpec
from atoll.weights.json_fields import Fields, shown
from atoll_kernels import ACTIVATIONS


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


def read_heads(
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
        if dim_name is not None:
            head_dim = fields.size(dim_name, default=head_dim, nullable=True)
    if not kv_names:
        return Heads(num_heads, num_heads, head_dim)
    num_kv_heads = fields.size(*kv_names, default=num_heads, nullable=True)
    fields.divided(num_heads, head_names, num_kv_heads, kv_names)
    return Heads(num_heads, num_kv_heads, head_dim)


def whole_head_rope(fields: Fields, heads: Heads, theta: float = 10000.0) -> RopeSpec:
    """The rotation of a family that rotates whole heads, whose width may be ``head_dim``.

    Raises:
        ConfigError: heads of an odd width, or a scaling that is not known.
    """
    check_width(fields, heads.head_dim, heads.head_dim, "head_dim", "num_attention_heads")
    return RopeSpec.from_hf(fields.raw, heads.head_dim, theta)


def layer_ropes(
    fields: Fields, heads: Heads, theta: float, local_theta: float, local_name: str
) -> tuple[RopeSpec, RopeSpec]:
    """The rotations of layers that see the whole text, and of those with a window.

    ``rope_parameters`` has one of each, or older files scale only the first.

    Args:
        theta, local_theta: where the file has none. local_name: the older files' key of the second.

    Raises:
        ConfigError: heads of an odd width, or a scaling that is not known.
    """
    check_width(fields, heads.head_dim, heads.head_dim, "head_dim", "num_attention_heads")
    parameters = fields.inside("rope_parameters")
    other = sorted(set(parameters.raw) - {"full_attention", "sliding_attention"})
    if other or (parameters.raw and fields.has("rope_scaling")):
        raise ConfigError(
            f"{fields.source}: rope_parameters has {other}, rope_scaling is "
            f"{shown(fields.raw.get('rope_scaling'))}; expected full_attention and "
            "sliding_attention, or rope_scaling alone"
        )
    _check_old_ropes(fields, local_theta, local_name)
    raw = fields.raw
    both = {name: raw[name] for name in ("max_position_embeddings",) if name in raw}
    names = ("rope_scaling", "rope_theta", "original_max_position_embeddings")
    old = {name: raw[name] for name in names if name in raw}
    local = {"rope_theta": fields.number(local_name, default=local_theta)}
    inner = [parameters.inside(f"{kind}_attention").raw for kind in ("full", "sliding")]
    spec = RopeSpec.from_hf({**old, **both, "rope_parameters": inner[0]}, heads.head_dim, theta)
    second = RopeSpec.from_hf({**local, **both, "rope_parameters": inner[1]}, heads.head_dim)
    if second.kind not in ("default", "linear"):
        raise ConfigError(
            f"{fields.source}: rope_parameters: sliding_attention: rope_type is {second.kind!r}; "
            "supported: default and linear"
        )
    return spec, second


def two_ropes(fields: Fields, whole_dim: int, window_dim: int) -> tuple[RopeSpec, RopeSpec]:
    """The rotations of layers that see the whole text, and of those with a window, whose heads may
    have other widths; ``rope_parameters`` has one of each.

    Raises:
        ConfigError: one is missing, heads of an odd width, or a scaling that is not known.
    """
    parameters, found = fields.inside("rope_parameters"), []
    kinds = {"full_attention": whole_dim, "sliding_attention": window_dim}
    if set(parameters.raw) != set(kinds) or fields.has("rope_scaling"):
        raise ConfigError(
            f"{fields.source}: rope_parameters has {sorted(parameters.raw)}, rope_scaling is "
            f"{shown(fields.raw.get('rope_scaling'))}; expected full_attention and "
            "sliding_attention, and no rope_scaling"
        )
    both = {n: fields.raw[n] for n in ("max_position_embeddings",) if n in fields.raw}
    for kind, dim in kinds.items():
        check_width(fields, dim, dim, "global_head_dim" if dim == whole_dim else "head_dim")
        inner = parameters.inside(kind)
        inner.number("rope_theta", above=1.0)
        spec = RopeSpec.from_hf({**both, "rope_parameters": inner.raw}, dim)
        if spec.kind not in ("default", "linear", "proportional"):
            raise inner.wrong("default, linear or proportional", "rope_type", "type")
        if spec.kind == "proportional":
            inner.number("partial_rotary_factor", default=1.0, most=1.0)
        found.append(spec)
    return found[0], found[1]


def _check_old_ropes(fields: Fields, local_theta: float, local_name: str) -> None:
    """Raises ConfigError: an older file's rotations are not the same in all transformers."""
    old = fields.inside("rope_scaling")
    if old.has("type") and not old.has("rope_type"):
        raise ConfigError(
            f"{fields.source}: rope_scaling has type {shown(old.raw['type'])}, which transformers "
            "ignores for this family; expected rope_type"
        )
    if local_name != "rope_theta" or fields.has("rope_parameters"):
        return
    theta = fields.number("rope_theta", default=local_theta)
    if theta != local_theta:
        raise ConfigError(
            f"{fields.source}: rope_theta is {theta:g}; versions of transformers differ in whether "
            f"layers with a window have it, or {local_theta:g}: expected rope_parameters with "
            "full_attention and sliding_attention"
        )


def layer_windows(
    fields: Fields,
    num_layers: int,
    window: int | None,
    is_windowed: Callable[[int], bool],
    window_names: tuple[str, ...] = ("sliding_window",),
) -> tuple[int | None, ...]:
    """The sliding window of each layer; None for those that see the whole text.

    Args:
        window: of the layers that have one; None if none of them has. is_windowed: the family's
            rule for the layers of a file without ``layer_types``. window_names: the keys that
            give the window.

    Raises:
        ConfigError: ``layer_types`` has another length or other kinds, or asks for a window that
            the file does not give.
    """
    kinds = _layer_types(fields, num_layers)
    if not kinds:
        return tuple(window if is_windowed(layer) else None for layer in range(num_layers))
    other = sorted(set(kinds) - {"full_attention", "sliding_attention"})
    if other:
        raise ConfigError(
            f"{fields.source}: layer_types has {other}; supported: full_attention and "
            "sliding_attention"
        )
    if window is None and "sliding_attention" in kinds:
        raise ConfigError(
            f"{fields.source}: layer_types has sliding_attention, and there is no window by "
            + " and ".join(f"{name} ({shown(fields.raw.get(name))})" for name in window_names)
        )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def two_sided(windows: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The windows of layers whose tokens see both sides, with ``is_causal: false``.

    transformers then counts the neighbours on each side, and otherwise the token itself too.
    """
    return tuple(None if window is None else window + 1 for window in windows)


def check_equal_layers(fields: Fields, num_layers: int) -> None:
    """Raises ConfigError: layers differ in their attention, or there are not as many as named."""
    kinds = _layer_types(fields, num_layers)
    if set(kinds) - {"full_attention"}:
        raise ConfigError(
            f"config.json: layer_types has {sorted(set(kinds))}; layers that differ in their "
            f"attention are not supported for model_type {fields.raw.get('model_type')!r}"
        )


def _layer_types(fields: Fields, num_layers: int) -> tuple[str, ...]:
    kinds = fields.texts("layer_types")
    if fields.has("layer_types") and len(kinds) != num_layers:
        raise fields.wrong(f"one for each of num_hidden_layers, {num_layers}", "layer_types")
    return kinds


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
