"""A checkpoint that transcribes: whether it can be served, by its small files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atoll.errors import UnsupportedModel
from atoll.models import families, unsupported
from atoll.models.detected import Detected
from atoll.text.speech import SpeechTokens
from atoll.weights.json_fields import Fields, stored_dtype

TASK = "transcribe"


def is_asked_for(config: Mapping[str, Any], task: str | None) -> bool:
    """Whether it is a model of sound, or is to be served as one."""
    return task == TASK or config.get("model_type") in families.SPEECH


def read(
    folder: Path, config: Mapping[str, Any], names: Sequence[str], task: str | None
) -> Detected:
    """What the checkpoint is.

    Args:
        names: config.json's architectures. task: what the user named, if anything.

    Raises:
        ConfigError: a file is missing, or a key has a value that is not supported.
        UnsupportedModel: it is for something else; names what.
    """
    model_type = str(config.get("model_type", ""))
    name = names[0] if names else model_type
    if model_type not in families.SPEECH:
        raise UnsupportedModel(
            f"{folder}: {name} (model_type {model_type!r}) is not supported for task {TASK!r}: "
            f"supported are {', '.join(sorted(families.SPEECH))}"
        )
    unsupported.check_class(folder, config, names, False)
    unsupported.check_adapter(folder)
    # They import torch, which commands do without.
    from atoll.audio.features import FeatureExtractor
    from atoll.models.registry import Checkpoint, architecture

    raw = Checkpoint.open(folder).raw
    c = architecture(raw, families.DECODERS).Config.from_hf(raw)
    SpeechTokens.read(folder, c.vocab_size, c.decoder_start_token_id)
    FeatureExtractor.load(folder, c.num_features, c.frames_per_output * c.max_input_positions)
    if task not in (None, TASK):
        raise UnsupportedModel(
            f"{folder}: {name} is for task {TASK!r}, and is not supported for task {task!r}"
        )
    return Detected(
        task=TASK,
        architecture=names[0] if names else "",
        model_type=model_type,
        hidden_size=c.hidden_size,
        embedding_size=c.hidden_size,
        max_tokens=c.max_answer_positions,
        dtype=stored_dtype(Fields(config)),
    )
