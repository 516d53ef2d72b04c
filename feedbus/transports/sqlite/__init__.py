"""The embedded broker: RabbitMQ's semantics in one SQLite file, without a server.

To understand it, read four modules: `schema` (the tables), `routing` (the queues of a message),
`queued_messages` (how a consumer gets messages) and `connection` (how an idle consumer is woken).
"""

from kombu.transport import TRANSPORT_ALIASES

from feedbus.transports.sqlite.transport import Transport

# Of several URLs, separated by ";", Kombu finds the transport of each by its scheme.
TRANSPORT_ALIASES.setdefault("sqlite", f"{__name__}:{Transport.__name__}")

__all__ = ["Transport"]
