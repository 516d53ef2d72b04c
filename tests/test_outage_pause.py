"""What a consumer counts and logs during an outage."""

from __future__ import annotations

import pytest

from feedbus import Outage
from feedbus.clock import VirtualClock
from feedbus.errors import BrokerOutage, FeedbusError, StoreOutage, UsageError, unavailable_part
from feedbus.metrics import Metrics
from feedbus.runner.outage_pause import LOG_INTERVAL_SECONDS, OutagePause


class MailOutage(Outage):
    """An outage that a project defines."""


class DatabaseOutage(StoreOutage):
    """An outage of a store that a project has written."""


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (Outage("the mail server does not answer"), "handler"),
        (MailOutage("the mail server does not answer"), "handler"),
        (StoreOutage("store: it does not answer"), "store"),
        (DatabaseOutage("store: it does not answer"), "store"),
        (BrokerOutage("broker: it does not answer"), "broker"),
        (UsageError("another process holds the lock"), "broker"),
    ],
)
def test_an_outage_of_a_project_is_not_counted_as_an_outage_of_the_broker(
    error: FeedbusError, part: str
) -> None:
    assert unavailable_part(error) == part


def test_the_log_of_a_long_outage_has_the_number_of_failed_attempts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = VirtualClock(seed=1)
    reports: list[str] = []
    pause = OutagePause("mail", Metrics.none().consumer("mail"), reports.append, clock)
    begin, attempts = clock.monotonic(), 0
    while len(caplog.records) < 2:
        pause.hold(BrokerOutage("broker: it does not answer"), clock.sleep, 60.0)
        attempts += 1
    assert clock.monotonic() - begin > LOG_INTERVAL_SECONDS
    first, second = (str(each.msg) for each in caplog.records)
    assert 'then tries again: broker: it does not answer"' in first
    assert f"broker: it does not answer ({attempts - 1} failed attempts in 6" in second
    assert reports == ["broker: it does not answer"]
