"""Tests as the documentation writes them."""

from collections.abc import Iterator

import pytest
from shop import archive, mail, mail_server, reserve

from feedbus.testing import RecordingBus, Records, TestSystem

CHAIR = {"id": 1, "product": "chair", "customer": "ann", "quantity": 2}


@pytest.fixture
def system() -> Iterator[TestSystem]:
    """A system in memory."""
    with TestSystem("topology.toml") as system:
        yield system


def test_an_order_is_mailed(system: TestSystem) -> None:
    """The whole chain."""
    system.publish("orders", CHAIR, key="chair")
    system.run()
    assert [each.key for each in system.published("receipts")] == ["mail.ann"]
    assert [letter.reason for letter in system.dead_letters("reserve")] == []


class FakeServer:
    """What a test gives in place of a connection."""

    def request(self, method: str, path: str) -> None:
        """Take it."""


def test_with_a_replacement(system: TestSystem) -> None:
    """A resource is replaced by its function."""
    system.override(mail_server, FakeServer())
    system.override(archive, b"archive")


def test_one_handler() -> None:
    """A handler is a function."""
    bus = RecordingBus("topology.toml")
    reserve(CHAIR, bus)
    mail(Records.of([CHAIR]), bus)
