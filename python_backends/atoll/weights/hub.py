"""Asks the hub, and says what to do where it cannot answer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from atoll.errors import ConfigError
from atoll.weights.gguf.sources import HubFile, chosen, together
from atoll.weights.progress import download_bar

_TIMEOUT_S = 20.0


class Unreachable(ConfigError):
    """Nothing is known about the model; an earlier download may be there."""


def file_names(model_id: str, revision: str | None) -> list[str]:
    """The files of a repository; errors are the hub library's."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub import errors as hub

    if constants.HF_HUB_OFFLINE:
        raise hub.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    # Not list_repo_files: that one retries for half a minute where there is no network.
    token = os.environ.get("HF_TOKEN") or None
    info = HfApi(token=token).model_info(model_id, revision=revision, timeout=_TIMEOUT_S)
    return [s.rfilename for s in info.siblings or ()]


@contextlib.contextmanager
def hub_errors(model_id: str, revision: str | None) -> Iterator[None]:
    """Turns the hub library's errors into ours.

    Raises:
        Unreachable: anything but an answer. ConfigError: the hub's answer is no; says what to do.
    """
    from huggingface_hub import errors as hub

    try:
        yield
    except hub.GatedRepoError as error:
        raise ConfigError(
            f"model {model_id!r} is gated: accept its terms on the hub and set HF_TOKEN"
        ) from error
    except hub.RevisionNotFoundError as error:
        raise ConfigError(f"model {model_id!r} has no revision {revision!r}") from error
    except hub.RepositoryNotFoundError as error:
        raise ConfigError(
            f"the hub has no model {model_id!r}, or it is private and HF_TOKEN does not open it"
        ) from error
    except hub.HFValidationError as error:
        raise ConfigError(f"model_id {model_id!r} is no folder and no hub id: {error}") from error
    except ConfigError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise Unreachable(
            f"model {model_id!r} is not downloaded yet and the hub cannot be reached "
            f"({lines[0] if lines else type(error).__name__}); give the folder of a checkpoint, "
            "or connect once"
        ) from error


def gguf_file(file: HubFile, revision: str | None, cache: str | Path | None) -> Path:
    """A GGUF file of a repository, downloaded if need be, with all of its series.

    Raises:
        ConfigError: the repository has no such file, or several; or the hub cannot be asked.
    """
    from huggingface_hub import snapshot_download

    repository, wanted = file
    token = os.environ.get("HF_TOKEN") or None
    try:
        with hub_errors(repository, revision):
            names = file_names(repository, revision)
            first = chosen(names, wanted, f"model {repository!r}")
            folder = snapshot_download(
                repository, revision=revision, cache_dir=cache, token=token,
                allow_patterns=together(first, names), tqdm_class=download_bar(),
            )  # fmt: skip
    except Unreachable as error:
        earlier = earlier_gguf(file, revision, cache)
        if earlier is None:
            raise ConfigError(str(error)) from error
        return earlier
    return Path(folder) / first


def earlier_gguf(file: HubFile, revision: str | None, cache: str | Path | None) -> Path | None:
    """The file, if an earlier download has it; None if not."""
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            file.repository, revision=revision, cache_dir=cache, local_files_only=True
        )
    except (hub.LocalEntryNotFoundError, hub.HFValidationError):
        return None
    folder = Path(found)
    names = [str(path.relative_to(folder)) for path in folder.rglob("*.gguf")]
    if not names:
        return None
    return folder / chosen(names, file.wanted, f"the download of {file.repository!r}")
