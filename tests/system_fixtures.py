"""Fixtures that create systems on one broker or on several, and close their store afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from feedbus.store.peewee import close_bound
from tests.systems import System


@contextmanager
def closing_store() -> Iterator[None]:
    """Close the store after a test."""
    try:
        yield
    finally:
        close_bound()


def on_broker(
    kind: str,
    folder: Path,
    request: pytest.FixtureRequest,
    *,
    management: bool = False,
    **options: Any,
) -> Iterator[Callable[..., System]]:
    """Yield a function that creates systems on a broker, and close the store after the test.

    Args:
        kind: "embedded", "rabbitmq" for the node that most tests share, or a version of RabbitMQ.
        folder: for the files of the system.
        request: of the fixture that yields from this.
        management: whether the systems have the URL of RabbitMQ's management API.
        options: of System.at.

    """
    urls: dict[str, str] = {}
    if kind != "embedded":
        if kind == "rabbitmq":
            node = request.getfixturevalue("rabbitmq")
        else:
            node = request.getfixturevalue("rabbitmq_nodes")(kind)
        urls["broker_url"] = node.url
        if management:
            urls["management_url"] = node.management_url
    with closing_store():
        yield partial(System.at, folder, **urls, **options)


def systems_on(*kinds: str, **options: Any) -> Any:
    """Return a fixture for a module that makes systems on several brokers; see on_broker()."""

    @pytest.fixture(params=kinds, name="make")
    def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., System]]:
        yield from on_broker(request.param, tmp_path, request, **options)

    return make


def systems_on_either_broker() -> Any:
    """Return a fixture that makes systems without a store on SQLite, and with one on RabbitMQ.

    It is for tests whose results are the same with and without a store.
    """

    @pytest.fixture(params=["embedded", "rabbitmq"], name="make")
    def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., System]]:
        yield from on_broker(request.param, tmp_path, request, stored=request.param != "embedded")

    return make
