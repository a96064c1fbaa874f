"""Loads, unloads and reloads models of a running server, from any thread.

What is served then is what a restart of the server serves, too. Operations on one model wait for
each other; those on different models run at once, as Triton loads them at once.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from atoll.catalogue import Entry, ServedModel, renamed, session
from atoll.errors import AtollError, ConfigError
from atoll.launcher.admin.loading import Report, bring_up, touch
from atoll.launcher.admin.served import Served
from atoll.launcher.drain import drain
from atoll.launcher.repositories import check_path, fetch
from atoll.launcher.server import ServerProcess
from atoll.launcher.stubs import Stub, find_stubs
from atoll.weights.progress import downloads_told

MakeEntry = Callable[[str, Mapping[str, str]], Entry]


class ModelControl:
    """The models of one server.

    make_entry: the entry of a model id with settings. on_change: called with the names of models
    that have come, gone, or become others. on_unloaded: with those that have been unloaded.
    """

    def __init__(
        self, process: ServerProcess, make_entry: MakeEntry,
        on_change: Callable[[Sequence[str]], None] = lambda names: None,
    ) -> None:  # fmt: skip
        self.process, self.served, self.on_change = process, Served(process), on_change
        self._make_entry = make_entry
        self.on_unloaded: Callable[[Sequence[str]], None] = lambda names: None
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)

    def load(self, wanted: str, settings: Mapping[str, str], report: Report) -> list[str]:
        """Loads an entry by its name, or any model by its id or folder; returns the names.

        settings: for a new entry; ``served_model_name`` is its name.

        Raises:
            AtollError: why it is not loaded; nothing of it is left then.
        """
        if wanted in self.served.known() and not settings:
            return self._load_known(wanted, report)
        report({"phase": "fetching", "model": wanted})
        with downloads_told(_bytes_told(wanted, report)):
            entry = self._make_entry(wanted, settings)
        asked = settings.get("served_model_name", entry.name)
        if asked != entry.name:
            note = renamed(asked, entry.name)
            report({"phase": "named", "model": entry.name, "note": note})
        with self._locks[entry.name]:
            is_new = self.served.place(entry, settings)
            try:
                return self._load_known(entry.name, report)
            except BaseException:
                if is_new:
                    self.served.remove(entry)
                raise

    def asking(self, name: str) -> list[str]:
        """Loaded models that a model answers for, its conversations aside."""
        own = session(name).name
        models = self.served.loaded().values()
        return [m.name for m in models if name in m.asked and m.name not in (own, name)]

    def unload(self, name: str, grace_s: float, report: Report) -> list[str]:
        """Lets a model's requests finish within ``grace_s``, ends the rest with an error, and
        unloads it; conversations with a generator go with it. Returns the names.

        Raises:
            AtollError: it is not loaded, or others ask it.
        """
        with self._locks[name]:
            self.served.expect(name)
            loaded, began = self.served.loaded(), time.monotonic()
            names = [n for n in (session(name).name, name) if n in loaded]
            if asking := self.asking(name):
                raise ConfigError(
                    f"model {name!r} answers for {', '.join(asking)}: unload that first"
                )
            report({"phase": "draining", "model": name, "within_seconds": grace_s})
            with self.served.doing(names, "unloading"):
                self.served.drop(names)
                self._drain([loaded[n] for n in names], grace_s)
            self.on_unloaded(names)
            self.on_change(names)
            report({"phase": "unloaded", "model": name, "seconds": _since(began)})
            return names

    def reload(self, name: str, settings: Mapping[str, str], report: Report) -> list[str]:
        """Replaces a loaded model by itself with new settings, or with files that have changed.

        The one that is loaded answers until the new one is ready; then it finishes its requests.

        Raises:
            AtollError: why it is not replaced; the one that is loaded goes on then.
        """
        with self._locks[name]:
            model, old, began = self.served.expect(name), self.served.entry(name), time.monotonic()
            if settings and old is None:
                raise ConfigError(
                    f"model {name!r} is an entry of a repository: change its config.pbtxt and "
                    "reload it without settings"
                )
            new = self._changed(old, settings) if old is not None and settings else old
            with self.served.doing([name], "reloading"):
                self._replace(model, old, new, report)
            self.process.on_loaded([name])
            self.on_change([name])
            report({"phase": "ready", "model": name, "seconds": _since(began)})
            return [name]

    def _changed(self, old: Entry, settings: Mapping[str, str]) -> Entry:
        revision = {"revision": old.revision} if old.revision else {}
        given = {**old.settings, **revision, "served_model_name": old.name, **settings}
        new = self._make_entry(old.model_id, given)
        if (new.name, new.task) != (old.name, old.task):
            raise ConfigError(
                f"model {old.name!r} would be {new.name!r} with task {new.task!r}: load that "
                "beside this one"
            )
        return new

    def _replace(
        self, model: ServedModel, old: Entry | None, new: Entry | None, report: Report
    ) -> None:
        before = self._stubs()
        try:
            if new is not None:
                self.served.put(new)
            touch(model)
        except OSError as error:
            raise ConfigError(
                f"the files of model {model.name!r} cannot be written to ({error}), and Triton "
                "reloads changed files only: unload and load it"
            ) from error
        try:
            fresh = self.served.known()[model.name]
            folders = fetch(fresh)
            self._up(fresh, report)
        except AtollError:
            if old is not None and old != new:
                self.served.put(old)
            raise
        self.process.checkpoints[model.name] = folders
        self.served.add([fresh], before)

    def _load_known(self, name: str, report: Report) -> list[str]:
        """Loads an entry, and the entry for conversations if the server has written it."""
        with self._locks[name]:
            began = time.monotonic()
            if name not in self.served.loaded():
                known, is_own = self.served.known(), self.served.entry(name) is not None
                names = [name, *([session(name).name] if is_own else [])]
                names = [n for n in names if n in known]
                with self.served.doing(names, "loading"):
                    self._bring_up([known[n] for n in names], known, report)
                self.on_change(names)
            report({"phase": "ready", "model": name, "seconds": _since(began)})
            return [n for n in (name, session(name).name) if n in self.served.loaded()]

    def _bring_up(
        self, models: Sequence[ServedModel], known: Mapping[str, ServedModel], report: Report
    ) -> None:
        before, begun = self._stubs(), list[ServedModel]()
        try:
            for model in models:
                check_path(model.folder.name, "the name of an entry's folder")
                model.check_links(known)
                with downloads_told(_bytes_told(model.name, report)):
                    self.process.checkpoints[model.name] = fetch(model)
                begun.insert(0, model)
                self._up(model, report)
        except BaseException:
            self._drain(begun, 0.0)
            for model in models:
                self.process.checkpoints.pop(model.name, None)
            raise
        self.served.add(models, before)

    def _up(self, model: ServedModel, report: Report) -> None:
        timeout_s = self.process.options.startup_timeout_s
        startup = self.process.startup
        bring_up(self.served.probe, self.process.pid, model, timeout_s, report, startup)

    def _stubs(self) -> Collection[Stub]:
        return frozenset(find_stubs(self.process.pid))

    def _drain(self, models: Sequence[ServedModel], grace_s: float) -> None:
        names = {model.name for model in models}
        stubs = [stub for stub in self._stubs() if stub.model in names]
        drain(self.served.probe, models, stubs, grace_s, self.process.is_running)
        for stub in stubs:
            stub.kill()


def _since(began: float) -> float:
    return round(time.monotonic() - began, 2)


def _bytes_told(model: str, report: Report) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        report({"phase": "downloading", "model": model, "bytes": done, "total_bytes": total})

    return tell
