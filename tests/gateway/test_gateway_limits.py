"""How many requests a gateway holds: what its models were started for is not cut short by it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from atoll_client.errors import Overloaded
from atoll_client.gateway.core.admission import Admission
from atoll_client.gateway.core.models import Models
from atoll_client.gateway.core.settings import GatewaySettings
from atoll_client.types import ModelInfo


@pytest.mark.parametrize(
    ("own", "of_models", "limit"),
    [(0, (), 2048), (0, (512, 512), 2048), (0, (4096, 512), 4608), (7, (4096,), 7)],
)
def test_the_limit_follows_the_models(own: int, of_models: tuple[int, ...], limit: int) -> None:
    """``atoll serve --max-concurrent-requests 4096``: the gateway in front refused beyond 2048."""
    infos = {
        str(i): ModelInfo(str(i), "embed", {"max_concurrent_requests": count})
        for i, count in enumerate(of_models)
    }
    pool: Any = SimpleNamespace(models=lambda: infos)
    admission = Admission(GatewaySettings(max_concurrent_requests=own), Models(pool, ()))
    refused = pytest.raises(Overloaded, match=f"max_concurrent_requests is {limit}$")
    with admission.admitted("a", limit - 1), admission.admitted("a"), refused:
        admission.admitted("a").__enter__()
    assert admission.num_open == 0


def _admission(**limits: int) -> Admission:
    pool: Any = SimpleNamespace(models=dict)
    return Admission(GatewaySettings(**limits), Models(pool, ()))


def test_a_client_who_takes_all_places_keeps_nobody_out() -> None:
    """500 requests of one client were 500 refusals of every other."""
    admission = _admission(max_concurrent_requests=8)
    refused = pytest.raises(Overloaded, match="8 requests are held; max_concurrent_requests is 8")
    with admission.admitted("greedy", 8):
        with refused:
            admission.admitted("greedy").__enter__()
        with admission.admitted("other"), admission.admitted("third"):
            assert admission.num_open == 10
            # No more than a quarter beyond the limit, whoever asks.
            with pytest.raises(Overloaded, match="10 requests are held"):
                admission.admitted("fourth").__enter__()
        with pytest.raises(Overloaded):  # more than its share of the places
            admission.admitted("other", 5).__enter__()
    assert admission.num_open == 0 and not admission._open._own


def test_bytes_of_bodies_are_shared_too() -> None:
    admission = _admission(max_held_bytes=1000)
    with admission.held("greedy") as greedy, admission.held("other") as other:
        greedy(1000)
        with pytest.raises(Overloaded, match="requests of 1000 bytes are held"):
            greedy(1)
        other(200)
        with pytest.raises(Overloaded, match="requests of 1200 bytes are held"):
            other(100)
    assert admission.num_bytes == 0 and not admission._bytes._own


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "0"), ("port", "99999"), ("grpc_port", "-1"), ("payload_limit", "0"),
        ("max_concurrent_requests", "-1"), ("max_answers", "0"), ("health_interval_s", "nan"),
        ("request_timeout_s", "inf"), ("body_timeout_s", "0"), ("shutdown_grace_s", "-1"),
        ("server", ","),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_named(
    name: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Port 99999 was said to be listened on, and was another one; no other was checked either."""
    flag = f"--{name.replace('_', '-')}={value}"
    for arguments, environment in (([flag], {}), ([], {f"ATOLL_GATEWAY_{name.upper()}": value})):
        with pytest.raises(SystemExit) as ended:
            GatewaySettings.read(arguments, environment)
        assert ended.value.code == 2 and f"{name} is " in capsys.readouterr().err
