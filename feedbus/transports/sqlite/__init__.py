"""The embedded broker: RabbitMQ's semantics over one SQLite file, for many processes, no server.

Read `schema` for what is kept, `routing` for where a message goes, `delivery` for what a consumer
holds, `connection` for how an idle one is woken.
"""

from kombu.transport import TRANSPORT_ALIASES

from feedbus.transports.sqlite.transport import Transport

# Of several URLs, separated by ";", Kombu finds the transport of each by its scheme.
TRANSPORT_ALIASES.setdefault("sqlite", f"{__name__}:{Transport.__name__}")

__all__ = ["Transport"]
