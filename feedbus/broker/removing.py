"""Delete a queue only as it was agreed: empty and unused, or with what is in it."""

from __future__ import annotations

from amqp.exceptions import NotFound, PreconditionFailed
from kombu.connection import Connection

REFILLED = "messages have come meanwhile; apply again"


def remove_queue(connection: Connection, queue: str, *, nonempty: bool) -> str:
    """Delete a queue that nobody consumes; return why that was not done, "" when it is gone.

    Args:
        connection: to its broker.
        queue: by its name there.
        nonempty: whether its messages may go with it.

    """
    channel = connection.channel()
    try:
        channel.queue_delete(queue, if_unused=True, if_empty=not nonempty)
    except NotFound:
        return ""
    except PreconditionFailed as error:
        if "in use" in str(error):
            return "somebody consumes it; end that and apply again"
        return REFILLED
    channel.close()
    return ""
