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
    with admission.admitted(limit - 1), admission.admitted(), refused:
        admission.admitted().__enter__()
    assert admission.num_open == 0


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
