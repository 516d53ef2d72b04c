"""The embedded broker: RabbitMQ's semantics in one SQLite file, without a server.

To understand it, read four modules: `schema` (the tables), `routing` (which queues get a message),
`queued_messages` (how a consumer gets messages) and `registered_connection` (how connections wait
and wake each other).
"""

from kombu.transport import TRANSPORT_ALIASES

from feedbus.transports.sqlite.transport import Transport

# A program can give Kombu several URLs, separated by ";". Kombu then finds the transport of each
# URL by its scheme, so the scheme "sqlite" must have a transport.
TRANSPORT_ALIASES.setdefault("sqlite", f"{__name__}:{Transport.__name__}")

__all__ = ["Transport"]
