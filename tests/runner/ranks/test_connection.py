"""Connections between ranks: keys, interrupted messages, and who may connect."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest
from long_requests import wait_until

from atoll.errors import ConfigError, NotReady
from atoll.runner.ranks import connection, handshakes
from atoll.runner.ranks.connection import Address, Peer, accepted, connect, listen
from atoll.runner.ranks.handshakes import Handshakes
from atoll.runner.ranks.messages import Alive, Failed, Message

KEY = b"0123456789abcdef"


@pytest.fixture(params=["unix", "tcp"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[socket.socket, Address]:
    if request.param == "unix":
        path = str(tmp_path / "leader")
        return listen(path), path
    found = listen(("127.0.0.1", 0))
    return found, found.getsockname()


def joined(listening: tuple[socket.socket, Address], key: bytes = KEY) -> tuple[Peer, Peer]:
    """Both ends of a connection."""
    found, address = listening
    peers: list[Peer] = []
    thread = threading.Thread(target=lambda: peers.append(connect(address, key)))
    thread.start()
    theirs = accepted(found.accept()[0], KEY)
    thread.join()
    return peers[0], theirs


def test_messages_pass_in_both_directions(listening: tuple[socket.socket, Address]) -> None:
    ours, theirs = joined(listening)
    large = Failed("x" * 3_000_000)
    thread = threading.Thread(target=lambda: theirs.send(large))
    thread.start()
    assert ours.receive() == large
    thread.join()
    ours.send(Alive())
    assert theirs.receive() == Alive()
    ours.close()
    ours.close()
    with pytest.raises(EOFError):
        theirs.receive()
    theirs.close()


def test_another_key_is_refused_on_both_sides(listening: tuple[socket.socket, Address]) -> None:
    found, address = listening
    errors: list[Exception] = []

    def try_it() -> None:
        try:
            connect(address, b"another key")
        except NotReady as error:
            errors.append(error)

    thread = threading.Thread(target=try_it)
    thread.start()
    with pytest.raises(NotReady, match="key"):
        accepted(found.accept()[0], KEY)
    thread.join()
    assert len(errors) == 1


def test_one_who_says_nothing_or_nonsense_holds_nobody_up(
    listening: tuple[socket.socket, Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HANDSHAKE_S", 0.2)
    found, address = listening
    for said in (b"", b"GET / HTTP/1.1\r\n\r\n"):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        with socket.socket(family) as stranger:
            stranger.connect(address)
            stranger.sendall(said)
            with pytest.raises((NotReady, OSError), match="key"):
                accepted(found.accept()[0], KEY)


def test_a_handshake_has_one_time_limit(
    listening: tuple[socket.socket, Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger that sends a byte now and then would delay it without end, and so would a follower
    that knows the key but sends no message."""
    monkeypatch.setattr(handshakes, "HANDSHAKE_S", 0.5)
    found, address = listening
    shaking = Handshakes(KEY)
    stranger = socket.socket(found.family)
    stranger.connect(address)
    shaking.begin(found.accept()[0], "here")
    silent: list[Peer] = []
    thread = threading.Thread(target=lambda: silent.append(connect(address, KEY)))
    thread.start()
    shaking.begin(found.accept()[0], "here")
    thread.join()
    with pytest.raises(OSError):
        for byte in b"\0\0\0\x7f" + bytes(100):
            stranger.sendall(bytes([byte]))
            time.sleep(0.1)
            assert shaking.completed() == []
    with pytest.raises((EOFError, OSError)):
        silent[0].receive()
    monkeypatch.setattr(handshakes, "HANDSHAKE_S", 60)
    ours = threading.Thread(target=lambda: connect(address, KEY).send(Alive()))
    ours.start()
    shaking.begin(found.accept()[0], "here")
    done: list[tuple[Peer, Message]] = []
    wait_until(lambda: bool(done.extend(shaking.completed()) or done), lambda: "not completed")
    assert [message for _, message in done] == [Alive()]
    ours.join()
    stranger.close()


def test_a_message_that_stays_in_part_is_an_error(
    listening: tuple[socket.socket, Address],
) -> None:
    ours, theirs = joined(listening)
    theirs.limit_waiting(0.2)
    os.write(ours.fileno(), b"\0\0\1\0{")
    with pytest.raises(OSError):
        theirs.receive()
    with pytest.raises(OSError):
        for _ in range(10_000):  # until the buffers are full
            theirs.send_bytes(bytes(100_000))


def test_the_key_of_machines_must_be_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(connection.KEY, "short")
    with pytest.raises(ConfigError, match="ATOLL_SHARD_KEY has 5 characters.*at least 16"):
        connection.network_key()
    monkeypatch.setenv(connection.KEY, KEY.decode())
    assert connection.network_key() == KEY


def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too long"):
        listen(str(tmp_path / ("x" * 200)))
