"""Every key of config.json that is read: left out, of another type, out of range, contradictory.

What comes of it is what transformers makes of the same file, or an error that names the key; never
another result, and never one of Python's own errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny.families import FAMILIES, Family, theirs
from torch import Tensor

from atoll.errors import AtollError, ConfigError, WeightError
from atoll.models.registry import is_known

Json = dict[str, Any]
Key = tuple[str, ...]

WRONG = [
    "text",
    "8",
    0,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    True,
    [],
    [3],
    {"a": 1},
    None,
    2.0**40,
]
# What transformers does not read, or reads otherwise than the family's own code.
OWN_RULES = {"alibi_bias_max", "logit_scale", "learned_pos_emb", "norm_eps"}
# Keys with which a family is told, and whose loss makes it another one or none.
KINDS = {"model_type", "architectures"}


@dataclass(frozen=True)
class Case:
    family: Family
    folder: Path
    config: Json
    result: Tensor
    keys: tuple[Key, ...]

    def with_config(self, config: Json) -> Path:
        path = self.folder / "config.json"
        # A file that is emptied and filled again is written to the disk at once: 5 ms.
        path.unlink()
        path.write_text(json.dumps(config))
        return self.folder


class _Recorder(dict[str, Any]):
    """A config that notes which keys were asked for."""

    def __init__(self, raw: Mapping[str, Any], path: Key, seen: set[Key]) -> None:
        inner = {
            k: _Recorder(v, (*path, k), seen) if isinstance(v, Mapping) else v
            for k, v in raw.items()
        }
        super().__init__(inner)
        self.path, self.seen = path, seen

    def get(self, key: str, default: Any = None) -> Any:
        self.seen.add((*self.path, key))
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.seen.add((*self.path, key))
        return super().__getitem__(key)


def _keys_read(config: Json) -> tuple[Key, ...]:
    from atoll.models import families, registry

    whole, seen = config, set[Key]()
    path: Key = ("text_config",) if config["model_type"] in families.NESTED else ()
    config = _at(config, path)
    raw = _Recorder({**families.DEFAULTS.get(config["model_type"], {}), **config}, path, seen)
    table = families.DECODERS if is_known(config, families.DECODERS) else families.ENCODERS
    registry.build(registry.architecture(raw, table), raw)
    return tuple(sorted(key for key in seen if _at(whole, key[:-1]) is not None))


def _at(config: Any, path: Key) -> Any:
    for name in path:
        config = config.get(name)
    return config


def _changed(config: Json, key: Key, *value: Any) -> Json:
    """A copy with another value of a key, or without the key."""
    copy: Json = json.loads(json.dumps(config))
    inner = _at(copy, key[:-1])
    if value:
        inner[key[-1]] = value[0]
    else:
        inner.pop(key[-1], None)
    return copy


# Layouts of tensors, whose keys are those of another family here.
SAME_KEYS = (
    "llama-biases", "bigcode-multi-head", "mixtral-fused", "mpt-qk-norms", "mpt-learned-positions",
    "phi-qk-norms", "phi-mixformer", "bert-old-names", "opt", "mpt-grouped", "flan-t5", "mbart",
    "qwen3-biases", "cohere-qk-norms", "glm", "ministral3", "gpt-oss-dense", "gemma3-saved-again",
    "kimi-k2", "lfm2-moe", "nemotron-h", "nomic-new-names", "jina-code",
)  # fmt: skip


@pytest.fixture(scope="module", params=[f for f in FAMILIES if f.name not in SAME_KEYS], ids=str)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    family: Family = request.param
    folder = tmp_path_factory.mktemp("checkpoint")
    family.write(folder)
    config = json.loads((folder / "config.json").read_text())
    yield Case(family, folder, config, family.ours(folder), _keys_read(config))


def _is_close(ours: Tensor, other: Tensor) -> bool:
    limit = 1e-4 * max(1.0, float(other.std()))
    same = ours.shape == other.shape and float((ours - other).abs().max()) <= limit
    return same or (bool(other.isnan().any()) and bool(ours.isnan().any()))


def _verdict(case: Case, config: Json, key: Key) -> str | None:
    """What is wrong with the outcome; None if nothing is."""
    folder = case.with_config(config)
    try:
        ours = case.family.ours(folder)
    except (ConfigError, WeightError) as error:
        named = key[-1] in str(error) or key[-1] in KINDS
        return None if named else f"the error does not name it: {error}"
    except AtollError as error:
        return None if key[-1] in KINDS else f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"raw {type(error).__name__}: {error}"
    if _is_close(ours, case.result) and _at(config, key[:-1]).get(key[-1]) is None:
        return None
    if case.family.theirs is None or key[-1] in OWN_RULES:
        return None
    expected = theirs(case.family, folder)
    if expected is None:
        return "transformers refuses it"
    return None if _is_close(ours, expected) else "other numbers than transformers"


def _report(case: Case, outcomes: Mapping[str, str | None]) -> None:
    wrong = [f"{what}: {verdict}" for what, verdict in outcomes.items() if verdict]
    assert not wrong, f"{case.family}: {len(wrong)} wrong\n" + "\n".join(wrong)


def test_keys_left_out(case: Case) -> None:
    present = [key for key in case.keys if _at(case.config, key[:-1]).get(key[-1]) is not None]
    assert len(present) >= 8
    _report(case, {
        ".".join(key): _verdict(case, _changed(case.config, key), key) for key in present
    })  # fmt: skip


def test_keys_with_wrong_values(case: Case) -> None:
    outcomes = {
        f"{'.'.join(key)} = {value!r}": _verdict(case, _changed(case.config, key, value), key)
        for key in case.keys
        for value in WRONG
    }
    assert len(outcomes) > 100
    _report(case, outcomes)


def test_flags_turned_and_sizes_changed(case: Case) -> None:
    """A size off, a flag turned round: no tensor fits, or the numbers are transformers'."""
    outcomes = {}
    for key in case.keys:
        value = _at(case.config, key[:-1]).get(key[-1])
        if type(value) not in (bool, int):
            continue
        # Twice as many heads still divide what they share.
        other = not value if type(value) is bool else value + (value if "head" in key[-1] else 1)
        config = _changed(case.config, key, other)
        outcomes[f"{'.'.join(key)} = {other}"] = _verdict(case, config, key)
    assert outcomes
    _report(case, outcomes)
