"""Unloads models that nobody has asked for a while; the gateway loads them with the next request.

A model sleeps then. Only models of ours do, whose requests are counted, with the setting
``idle_unload_s`` in their entry, on the command line or in the environment; a model that others ask
stays. Requests that come to Triton's own ports do not wake a model.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from atoll.catalogue import ServedModel, session
from atoll.config import Settings
from atoll.errors import AtollError, ConfigError
from atoll.launcher.admin.activity import Activity
from atoll.launcher.admin.control import ModelControl

logger = logging.getLogger(__name__)

_LOOK_S = 1.0


class IdleModels:
    """``start``, ``stop``. say: called with a line for each event.

    on_asleep: called with the names of all models that sleep, each with the model that has to be
    loaded: conversations sleep with their generator.
    """

    def __init__(
        self, control: ModelControl, activity: Activity, say: Callable[[str], None]
    ) -> None:
        self._control, self._activity, self._say = control, activity, say
        self.on_asleep: Callable[[Mapping[str, str]], None] = lambda names: None
        self._asleep: Mapping[str, str] = {}
        self._seen: frozenset[str] = frozenset()
        self._falling = ""  # the model that is just being put to sleep
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="idle-models", daemon=True)

    @property
    def asleep(self) -> frozenset[str]:
        """Names of models that sleep."""
        return frozenset(self._asleep)

    def unloaded(self, names: Sequence[str]) -> None:
        """These models have been unloaded: unless it was done here, they do not sleep."""
        for model in {self._asleep[name] for name in names if name in self._asleep}:
            if model != self._falling:
                self._wake(model)

    def forget(self, name: str) -> list[str]:
        """Lets nobody wake a model that sleeps, as if it had been unloaded: returns the names that
        are gone, none if it is awake or just being loaded."""
        if not self._is_asleep(name) or self._asleep[name] != name:
            return []
        known = self._control.served.known()
        names = [n for n, model in self._asleep.items() if model == name and n in known]
        self._wake(name)
        self._control.on_change(names)
        return names

    def check_awake(self, name: str) -> None:
        """Raises ConfigError: the model sleeps."""
        if self._is_asleep(name):
            raise ConfigError(
                f"model {name!r} is asleep (idle_unload_s): load it, which reads its files and "
                "settings, or unload it"
            )

    def _is_asleep(self, name: str) -> bool:
        served = self._control.served
        awake = name in served.loaded() or served.busy.get(name) == "loading"
        return name in self._asleep and not awake

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Looks no more."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_S):
            try:
                self._look()
            except Exception:
                # The server may be starting again.
                logger.exception("idle models could not be looked for; again in a moment")

    def _look(self) -> None:
        loaded = self._control.served.loaded()
        for name in loaded.keys() - self._seen:
            self._activity.touch(name)
        self._seen = frozenset(loaded)
        for name in self._asleep.keys() & loaded.keys():
            self._wake(name)
        for model in loaded.values():
            limit_s = _limit_s(model)
            if limit_s > 0 and self._activity.idle_s(model.name) >= limit_s:
                self._put_to_sleep(model, limit_s)

    def _put_to_sleep(self, model: ServedModel, limit_s: float) -> None:
        """The gateway keeps requests from now on, which load the model once it is unloaded."""
        if model.name in self._control.served.busy or self._control.asking(model.name):
            return
        names = (model.name, session(model.name).name)
        self._set({**self._asleep, **dict.fromkeys(names, model.name)})
        grace_s = float(self._control.process.options.exit_timeout_s)
        self._falling = model.name
        try:
            self._control.unload(model.name, grace_s, lambda event: None)
        except AtollError as error:
            self._wake(model.name)
            self._say(f"model {model.name!r} is idle, and stays: {error}")
            return
        finally:
            self._falling = ""
        self._say(f"model {model.name!r} was idle for {limit_s:g} s and is unloaded")

    def _wake(self, model: str) -> None:
        self._set({k: v for k, v in self._asleep.items() if v != model})

    def _set(self, names: Mapping[str, str]) -> None:
        self._asleep = names
        self.on_asleep(names)


def _limit_s(model: ServedModel) -> float:
    """0: it never sleeps."""
    return Settings.read(model.parameters).idle_unload_s if model.task is not None else 0.0
