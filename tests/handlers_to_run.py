"""A topology of one queue whose handler is a function of a test module, for TestSystem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from marshmallow import Schema, fields

from feedbus import handler
from feedbus.topology import Exchange, Queue, RetryPolicy, StoreOptions, Topology
from feedbus.urls import parse_broker_url

ONE_RETRY = RetryPolicy((1.0,))


def topology_of(
    handler: str,
    *,
    middleware: tuple[str, ...] = (),
    retry: RetryPolicy = ONE_RETRY,
    store: StoreOptions | None = None,
    **options: Any,
) -> Topology:
    """Return a topology whose queue "work" has a handler, such as "tests.test_x:take"."""
    return Topology(
        name="ours",
        path=Path("topology.toml").absolute(),
        broker_url=parse_broker_url("sqlite:///var/broker.db"),
        exchanges={
            "work": Exchange("work", "topic", pack=10),
            "undone": Exchange("undone", "topic"),
        },
        queues={
            "work": Queue("work", "work", handler, routing_keys=("#",), retry=retry, **options),
            "undone": Queue(
                "undone", "undone", "tests.handlers_to_run:undone", routing_keys=("#",)
            ),
        },
        middleware=middleware,
        store=store,
    )


class Numbered(Schema):
    """A message that has a number."""

    n = fields.Integer(strict=True, required=True)


@handler(Numbered)
def undone(record: dict[str, int]) -> None:
    """Take it."""
