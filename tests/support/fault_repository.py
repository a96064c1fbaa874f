"""A repository of tiny models, of which the generator's faults are turned on by a test.

Models and code are the product's own. A ``model.py`` of the test's replaces one function of the
engine by one that first looks into the folder of faults: a file there makes it raise.
"""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from driving import save_llama
from in_process import write_embedder
from tiny.checkpoint import write
from tiny.encoders import classifiers, write_text_files
from tiny.tokenizer import write_tokenizer

from atoll.catalogue import entry_for, read_model, session, write_repository
from atoll.catalogue.pipelines import retrieve_rerank
from atoll.launcher.installation import STUB, Installation

GENERATOR, EMBEDDER, SESSION = "generator", "embedder", "generator-session"
RERANKER, SEARCH = "reranker", "search"

_GENERATOR_CODE = """
import os
import time
from atoll.serving import GenerateModel

class TritonPythonModel(GenerateModel):
    def initialize(self, args):
        super().initialize(args)
        runner = self.engine._core._runner
        forward = runner.forward

        def faulty(plan):
            time.sleep({slowness_s})
            for name, fault in (("step", RuntimeError), ("thread", SystemExit)):
                try:
                    os.rename("{faults}/" + name, "{faults}/" + name + "-done")
                except FileNotFoundError:
                    continue
                raise fault("a fault of the test")
            return forward(plan)

        runner.forward = faulty
"""
# It waits for the stub, also if the whole group is told to end.
_WRAPPER = """#!/bin/sh
trap : TERM INT
"$0.real" "$@"
code=$?
echo "$code" >> {codes}
exit $code
"""


def write_faulty(folder: Path, slowness_s: float = 0.0, **settings: str) -> Path:
    """The repository. A file ``step`` or ``thread`` in ``folder / "faults"`` makes the next step of
    the generator fail, or its thread end."""
    generator, embedder, reranker = (folder / n for n in (GENERATOR, EMBEDDER, RERANKER))
    (folder / "faults").mkdir(parents=True)
    save_llama(generator, max_position_embeddings=4096)
    write_tokenizer(generator)
    write_embedder(embedder)
    write(classifiers(1)[2], reranker)
    write_text_files(reranker)
    entries = [
        entry_for(str(generator), read_model(generator), name=GENERATOR, settings=settings),
        entry_for(str(embedder), read_model(embedder), name=EMBEDDER),
        entry_for(str(reranker), read_model(reranker), name=RERANKER),
        session(GENERATOR),
        retrieve_rerank(SEARCH, EMBEDDER, RERANKER),
    ]
    repository = folder / "repository"
    write_repository(entries, repository)
    code = _GENERATOR_CODE.format(faults=folder / "faults", slowness_s=slowness_s)
    (repository / GENERATOR / "1" / "model.py").write_text(code)
    return repository


def record_exit_codes(patch: pytest.MonkeyPatch, codes: Path) -> None:
    """From now on, stubs of servers that this process starts note there how they end."""
    make = Installation.backends

    def wrapped(self: Installation, scratch: Path) -> Path:
        folder = make(self, scratch)
        stub = folder / "python" / STUB
        stub.rename(stub.with_name(f"{STUB}.real"))
        stub.write_text(_WRAPPER.format(codes=codes))
        stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
        return folder

    patch.setattr(Installation, "backends", wrapped)
