"""Which arguments differ from what a broker reports, and what a refusal says."""

from __future__ import annotations

import pytest
from amqp.exceptions import InvalidCommand, PreconditionFailed

from feedbus.broker.differences import differences_text, explain_refusal, find_differences
from feedbus.errors import UsageError


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        ({}, {}, {}),
        ({"x-queue-type": "classic"}, {}, {}),
        ({}, {"x-queue-type": "classic"}, {}),
        ({"x-queue-type": "quorum"}, {}, {"x-queue-type": ("quorum", "classic")}),
        ({}, {"x-queue-type": "quorum"}, {"x-queue-type": ("classic", "quorum")}),
        (
            {"x-queue-type": "classic", "x-max-length": 5},
            {"x-message-ttl": 0},
            {"x-max-length": (5, None), "x-message-ttl": (None, 0)},
        ),
    ],
)
def test_a_default_that_the_broker_reports_equals_an_argument_that_nobody_gave(
    found, wanted, expected
):
    assert find_differences(found, wanted) == expected


# As 3.10.8 and 4.3.6 reply.
REPLIES = [
    (InvalidCommand, "COMMAND_INVALID - invalid exchange type 'x-consistent-hash'"),
    (InvalidCommand, "COMMAND_INVALID - unknown exchange type 'x-consistent-hash'"),
    (PreconditionFailed, "PRECONDITION_FAILED - invalid exchange type 'x-consistent-hash'"),
    (PreconditionFailed, "PRECONDITION_FAILED - unknown exchange type 'x-consistent-hash'"),
]


@pytest.mark.parametrize(("error", "reply"), REPLIES)
def test_an_exchange_type_that_a_plugin_brings_is_refused_with_the_plugins_name(error, reply):
    wanted = pytest.raises(UsageError, match="enable rabbitmq_consistent_hash_exchange")
    with wanted, explain_refusal("an exchange"):
        raise error(reply)


def test_an_object_that_apply_does_not_replace_is_to_be_deleted():
    reply = (
        "inequivalent arg 'x-expires' for queue 'a.b.dead' in vhost '/': received none but current"
        " is the value '5' of type 'long'"
    )
    wanted = pytest.raises(
        UsageError,
        match="x-expires is 5 on the broker, but not set in the topology; `feedbus apply` cannot"
        r" replace it: delete it \(on RabbitMQ: rabbitmqctl delete_queue a.b.dead\), and run",
    )
    with wanted, explain_refusal("a.b.dead"):
        raise PreconditionFailed(reply)


def test_arguments_are_shown_as_topology_toml_writes_them():
    found = {"x-single-active-consumer": True, "x-max-length": 5, "x-a": "", "x-b": "text"}
    assert differences_text(found, {}) == (
        "x-a: '' -> not set, x-b: text -> not set, x-max-length: 5 -> not set,"
        " x-single-active-consumer: true -> not set"
    )
