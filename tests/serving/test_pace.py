"""How long sending rests; times are given, nothing waits."""

import pytest

from atoll.serving.triton.response_streamer import SendThrottle


@pytest.mark.parametrize(
    ("worked", "rest"),
    [
        (0.0005, 0.0045),  # one stream: less than a step, every token leaves at once
        (0.003, 0.027),
        (0.02, 0.05),  # many streams wait for no longer than this
    ],
)
def test_rests_in_proportion_to_the_work(worked: float, rest: float) -> None:
    pace = SendThrottle()
    assert pace.left(100.0) == 0, "nothing was sent yet"
    pace.worked(100.0, 100.0 + worked)
    assert pace.left(100.0 + worked) == pytest.approx(rest)
    assert pace.left(100.0 + worked + rest / 2) == pytest.approx(rest / 2)
    assert pace.left(100.0 + worked + rest) == pytest.approx(0, abs=1e-9)
    assert pace.left(200.0) == 0
