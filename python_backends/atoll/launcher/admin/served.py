"""What a server serves, as it changes: its entries on disk, and what a restart would load."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from atoll.catalogue import Entry, ServedModel, session
from atoll.errors import ConfigError, NotReady
from atoll.launcher.admin.loading import clear_failure
from atoll.launcher.canary import Probe
from atoll.launcher.repositories import check_path, entries_in, own_repository, write_entry
from atoll.launcher.server import ServerProcess
from atoll.launcher.stubs import Stub

_OTHER_NAME = "give another name: served_model_name (--name)"


class Served:
    """busy: what is being done, by model."""

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        self.busy: dict[str, str] = {}
        self._lock = threading.Lock()

    @property
    def own(self) -> Path:
        """The repository that the server writes itself."""
        return own_repository(self.process.scratch)

    @property
    def probe(self) -> Probe:
        """The connection to the server.

        Raises:
            NotReady: it is not running.
        """
        found = self.process.probe
        if found is None or self.process.watchdog is None or not self.process.is_running():
            raise NotReady("the server is not running now: it is being started again")
        return found

    def known(self) -> dict[str, ServedModel]:
        """Every entry of the server's repositories, loaded or not, by name."""
        repository = self.process.options.repository
        return entries_in(self.own, *([] if repository is None else [repository.resolve()]))

    def loaded(self) -> dict[str, ServedModel]:
        """The models that are loaded, by name."""
        return {model.name: model for model in self.process.models}

    def expect(self, name: str) -> ServedModel:
        """Raises ConfigError: the model is not loaded; names those that are."""
        loaded = self.loaded()
        if name not in loaded:
            known = ", ".join(loaded) or "nothing"
            raise ConfigError(f"model {name!r} is not loaded; loaded: {known}")
        return loaded[name]

    def entry(self, name: str) -> Entry | None:
        """The entry that the server has written; None: it is the user's own."""
        return next((e for e in self.process.options.entries if e.name == name), None)

    @contextlib.contextmanager
    def doing(self, names: Sequence[str], what: str) -> Iterator[None]:
        """``with``: says so of these models."""
        self.busy |= dict.fromkeys(names, what)
        try:
            yield
        finally:
            for name in names:
                self.busy.pop(name, None)

    def add(self, models: Sequence[ServedModel], before: Collection[Stub]) -> None:
        """These models have been loaded, or loaded again; ``before``: processes that are not
        theirs."""
        names = [model.name for model in models]
        with self._lock:
            options = self.process.options
            listed = [n for n in names if n not in options.names] if options.names else []
            self.process.options = replace(
                options, names=(*options.names, *listed), unloaded=options.unloaded - set(names)
            )
            kept = [m for m in self.process.models if m.name not in names]
            self.process.models = (*kept, *models)
        if self.process.watchdog is not None:
            for model in models:
                self.process.watchdog.watch(model, before)

    def drop(self, names: Sequence[str]) -> None:
        """These models are going to be unloaded: nobody expects them any more."""
        if self.process.watchdog is not None:
            for name in names:
                self.process.watchdog.forget(name)
        with self._lock:
            options = self.process.options
            self.process.options = replace(options, unloaded=options.unloaded | set(names))
            self.process.models = tuple(m for m in self.process.models if m.name not in names)

    def put(self, entry: Entry, old: Entry | None = None) -> None:
        """Writes an entry of the server's own, in place of another one of its name."""
        names = write_entry(entry, self.own)
        with self._lock:
            options = self.process.options
            kept = [e for e in options.entries if e.name != entry.name]
            # Until it is loaded, a restart must not load it.
            unloaded = options.unloaded | (set(names) - set(self.loaded()))
            self.process.options = replace(options, entries=(*kept, entry), unloaded=unloaded)

    def place(self, entry: Entry, settings: Mapping[str, str]) -> bool:
        """Makes room for a new entry and writes it; whether there was none of its name.

        Raises:
            ConfigError: the name is taken, or the entry there has other settings.
        """
        check_path(entry.name, "the name of an entry's folder")
        there = self.known().get(entry.name)
        if there is None:
            self.put(entry)
            return True
        model_id = there.parameters.get("model_id")
        if model_id != entry.model_id:
            raise ConfigError(f"the name {entry.name!r} is taken by {model_id!r}; {_OTHER_NAME}")
        if set(settings) - {"served_model_name"}:
            if entry.name in self.loaded():
                raise ConfigError(
                    f"model {entry.name!r} is loaded: reload it for other settings, or "
                    f"{_OTHER_NAME}"
                )
            if self.entry(entry.name) is None:
                raise ConfigError(
                    f"{entry.name!r} is an entry of the repository, whose config.pbtxt has its "
                    f"settings; for others, {_OTHER_NAME}"
                )
            self.put(entry)
        return False

    def remove(self, entry: Entry) -> None:
        """Leaves nothing of an entry that could not be loaded."""
        states, timeout_s = self.probe.states(), self.process.options.startup_timeout_s
        for name in (session(entry.name).name, entry.name):
            folder = self.own / name
            if folder.is_dir() and name in states:
                clear_failure(self.probe, self.process.pid, folder, timeout_s)
            shutil.rmtree(folder, ignore_errors=True)
        with self._lock:
            options = self.process.options
            kept = tuple(e for e in options.entries if e.name != entry.name)
            self.process.options = replace(options, entries=kept)
