"""Check whether RabbitMQ accepts messages, or is short of memory or disk space."""

from __future__ import annotations

import time

from feedbus.wire.amqp_protocols import RawConnection

CONFIRM_SECONDS = 2.0  # how long to wait for the confirm of the message that refusal() publishes


def refusal(connection: RawConnection) -> str:
    """Return why the broker of a connection accepts no messages now, or "" if it accepts messages.

    RabbitMQ reports an alarm only to a connection that publishes. So this function publishes a
    message that no queue gets. During an alarm, RabbitMQ reads nothing more from the connection. So
    if the result is not "", the caller must not use the connection any more.
    """
    from amqp.basic_message import Message
    from amqp.exceptions import ChannelError

    blocked: list[str] = []
    answers: list[int] = []
    connection.on_blocked = blocked.append
    channel = connection.channel()
    channel.confirm_select()
    for event in ("basic_ack", "basic_nack"):
        channel.events[event].add(lambda tag, _multiple: answers.append(tag))
    deadline = time.monotonic() + CONFIRM_SECONDS
    try:
        channel.basic_publish(Message(b""), exchange="", routing_key="")
        while not (blocked or answers):
            connection.drain_events(timeout=max(deadline - time.monotonic(), 0.001))
    except TimeoutError:
        return f"it does not confirm a message within {CONFIRM_SECONDS:g} s"
    except ChannelError:
        return ""  # this user may not publish there, so the check is not possible
    if blocked:
        return f"it is short of memory or disk and blocks publishers ({blocked[0]})"
    return ""
