"""The embedded broker: RabbitMQ's semantics over one SQLite file, for many processes, no server.

Read `schema` for what is kept, `routing` for where a message goes, `delivery` for what a consumer
holds, `connection` for how an idle one is woken.
"""

from feedbus.transports.sqlite.transport import Transport

__all__ = ["Transport"]
