"""What commands print where a terminal is narrow, or where there is none."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from atoll.catalogue import ENTRIES
from atoll.cli.app import app
from atoll.cli.tables import print_table
from atoll.config import GROUPS, Settings

GROUP: Any = typer.main.get_command(app)


def _printed(*arguments: str, columns: int = 80) -> str:
    found = CliRunner().invoke(app, arguments, env={"COLUMNS": str(columns)})
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("name", [None, *GROUP.commands])
def test_help_names_every_flag_in_full(name: str | None, columns: int) -> None:
    """At 80 columns --gateway-grpc-port and most variables were cut; -h was unknown."""
    command = GROUP if name is None else GROUP.commands[name]
    shown = _printed(*([name] if name else []), "-h", columns=columns)
    assert shown == _printed(*([name] if name else []), "--help", columns=columns)
    words = set(re.split(r"[\s,;\[\]]+", shown))
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert words >= {*parameter.opts, *parameter.secondary_opts}, parameter.name
            named = parameter.envvar or ()
            assert words >= {*([named] if isinstance(named, str) else named)}, parameter.name
        else:
            assert any(parameter.name in word.lower() for word in words)
    assert "…" not in shown
    for line in shown.splitlines():
        # Names of flags and of groups stand in lines of their own, whatever their length.
        is_name = re.match(r"  \S|[A-Z].*:$", line)
        assert is_name or len(line) <= columns or len(line.split()) == 1, line


def test_settings_are_grouped() -> None:
    shown = _printed("serve", "--help")
    places = {title: shown.index(f"Settings: {title}:\n") for title in GROUPS.values()}
    for setting in fields(Settings):
        if setting.name == "model_id":
            continue
        at = shown.index(f"\n  --{setting.name.replace('_', '-')} ")
        begins = places[GROUPS[setting.metadata["group"]]]
        assert begins == max(place for place in places.values() if place < at), setting.name
    for title in ("What is served", "The gateway", "Triton's own ports", "The server"):
        assert f"\n{title}:\n" in shown


def test_a_list_in_a_pipe_is_a_line_for_each_entry() -> None:
    """Names were broken in the middle, into lines of 12 characters."""
    for columns in (20, 80):
        header, *lines = _printed("list", columns=columns).splitlines()
        assert header.split() == ["model", "task", "architecture", "checkpoint", "from", "here"]
        assert [line.split()[0] for line in lines] == [entry.name for entry in ENTRIES]
        assert all(e.model_id in line.split() for e, line in zip(ENTRIES, lines, strict=True))


@pytest.mark.parametrize(("columns", "is_framed"), [(80, False), (200, True)])
def test_a_terminal_gets_a_frame_where_it_fits(columns: int, is_framed: bool) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "LINES": "60", "TERM": "xterm"}
    command = [str(Path(sys.executable).with_name("atoll")), "list"]
    done = subprocess.Popen(command, stdout=theirs, stdin=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    assert done.wait(60) == 0
    os.close(ours)
    assert ("┃" in shown.decode()) == is_framed
    assert all(entry.model_id in shown.decode() for entry in ENTRIES)


def test_values_of_many_lines_and_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("", ""), [("kernels", "a: b\nc: [bold]d[/]"), ("x", "")], title="t")
    assert capsys.readouterr().out == "t\nkernels  a: b\n         c: [bold]d[/]\nx\n"
    print_table(("n", "ms"), [("1", "10.0"), ("16", "7.5")], numbers=True)
    assert capsys.readouterr().out == " n    ms\n 1  10.0\n16   7.5\n"
    print_table(("n",), [])
    assert capsys.readouterr().out == "n\n"
