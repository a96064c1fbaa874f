"""LoRA adapters loaded into and unloaded from the generators of a running server."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from atoll.catalogue import ServedModel
from atoll.errors import AtollError, ConfigError, NotReady
from atoll.launcher.admin.control import ModelControl
from atoll.launcher.admin.loading import Report, why
from atoll.launcher.stubs import find_stubs
from atoll.weights.adapters import adapter_folder, check_name, is_local
from atoll.weights.progress import downloads_told

_ANSWER_S = 600.0


@dataclass(frozen=True)
class Wanted:
    """path: a folder, or a hub id. model: None: the only generator. is_own: asked for by the
    user who runs the server, who may name any folder."""

    name: str
    path: str
    model: str | None = None
    load_inplace: bool = False
    is_own: bool = True


class AdapterControl:
    """Remembers which adapters it has loaded, for a model that has to be loaded again.

    folder: the only one, with what is in it, that clients other than the server's own user may name
    paths in; None: they may name hub ids only.
    """

    def __init__(self, control: ModelControl, folder: Path | None) -> None:
        self._control = control
        self._folder = None if folder is None else folder.resolve()
        self._loaded: defaultdict[str, dict[str, Path]] = defaultdict(dict)
        self._lock = threading.Lock()

    def load(self, wanted: Wanted, report: Report) -> str:
        """Returns the name of the model that has the adapter now.

        Raises:
            AtollError: why it is not loaded.
        """
        with self._lock:
            model = self._model(wanted.model)
            self._check_name(wanted.name, model)
            self._check_path(wanted)
            self._check_processes(model)
            report({"phase": "fetching", "model": wanted.name})
            with downloads_told(lambda done, total: report({
                "phase": "downloading", "model": wanted.name, "bytes": done, "total_bytes": total,
            })):  # fmt: skip
                folder = adapter_folder(wanted.path)
            report({"phase": "loading adapter", "model": wanted.name})
            self._ask(model, "load_adapter", name=wanted.name, folder=str(folder),
                      load_inplace=wanted.load_inplace)  # fmt: skip
            self._loaded[model.name][wanted.name] = folder
        self._control.on_change([model.name])
        return model.name

    def unload(self, name: str, model_name: str | None = None) -> str:
        """Requests that have begun finish with the adapter; returns the name of its model.

        Raises:
            ConfigError: no model has such an adapter.
        """
        with self._lock:
            model = self._owner(name) if model_name is None else self._model(model_name)
            self._ask(model, "unload_adapter", name=name)
            self._loaded[model.name].pop(name, None)
        self._control.on_change([model.name])
        return model.name

    def restore(self, names: Sequence[str], say: Callable[[str], None]) -> None:
        """Loads again what models had that have been loaded again."""
        for model in [m for m in self._control.process.models if m.name in names]:
            for name, folder in dict(self._loaded[model.name]).items():
                try:
                    self._ask(model, "load_adapter", name=name, folder=str(folder),
                              load_inplace=True)  # fmt: skip
                except AtollError as error:
                    say(f"adapter {name!r} of model {model.name!r} is not loaded again: {error}")
            if self._loaded[model.name]:
                self._control.on_change([model.name])

    def forget(self, names: Sequence[str]) -> None:
        """These models have been unloaded."""
        for name in names:
            self._loaded.pop(name, None)

    def _model(self, name: str | None) -> ServedModel:
        if name is not None:
            model = self._control.served.expect(name)
            if model.task != "generate":
                raise ConfigError(f"model is {name!r}, which is no generator: it has no adapters")
            return model
        found = [m for m in self._control.process.models if m.task == "generate"]
        if len(found) != 1:
            shown = ", ".join(m.name for m in found) or "none"
            raise ConfigError(f"model has to be named, since the generators here are: {shown}")
        return found[0]

    def _owner(self, name: str) -> ServedModel:
        for model in self._control.process.models:
            if model.task == "generate" and name in self._names(model):
                return model
        raise ConfigError(f"no model has an adapter {name!r}")

    def _names(self, model: ServedModel) -> list[str]:
        try:
            facts = self._control.served.probe.ask(model, {"op": "info"}, timeout_s=10.0)
        except NotReady:
            return []
        return list(facts.get("adapters") or ())

    def _check_name(self, name: str, model: ServedModel) -> None:
        check_name("lora_name", name)
        others = [m for m in self._control.process.models if m.task == "generate"]
        taken = {m.name for m in self._control.process.models}
        taken |= {n for m in others if m.name != model.name for n in self._names(m)}
        if name in taken:
            raise ConfigError(
                f"lora_name is {name!r}: it must be no model's and no other adapter's"
            )

    def _check_processes(self, model: ServedModel) -> None:
        """Raises ConfigError: only one of the model's processes would get the adapter."""
        stubs = find_stubs(self._control.process.pid)
        num = sum(stub.model == model.name and stub.is_running() for stub in stubs)
        if num > 1:
            raise ConfigError(
                f"model {model.name!r} has {num} processes (versions or instances): adapters at "
                "run time need one"
            )

    def _check_path(self, wanted: Wanted) -> None:
        """Raises ConfigError: the client may not name this path, or it depends on where the server
        was started."""
        if not is_local(wanted.path):
            return
        given = Path(wanted.path).expanduser()
        if not given.is_absolute():
            raise ConfigError(
                f"lora_path is {wanted.path!r}, a relative path; name a folder of the server's "
                "machine by its whole path, or give a hub id"
            )
        if wanted.is_own:
            return
        path = given.resolve()
        if self._folder is None:
            raise ConfigError(
                f"lora_path is {wanted.path!r}: without --lora-folder, it must be a hub id"
            )
        if not path.is_relative_to(self._folder):
            raise ConfigError(f"lora_path is {wanted.path!r}, which is not inside --lora-folder")

    def _ask(self, model: ServedModel, op: str, **arguments: object) -> None:
        question = {"op": op, "key": self._control.process.admin_key, **arguments}
        try:
            self._control.served.probe.ask(model, question, _ANSWER_S)
        except NotReady as error:
            # What the model says; that it is not there is said by Triton in the same way.
            raise ConfigError(why(error)) from error
