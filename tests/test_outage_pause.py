"""Which part of a system is counted as unavailable during an outage."""

from __future__ import annotations

import pytest

from feedbus import Outage
from feedbus.errors import BrokerOutage, FeedbusError, StoreOutage, UsageError
from feedbus.runner.outage_pause import unavailable_part


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
