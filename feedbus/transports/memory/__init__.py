"""A broker in memory: RabbitMQ's semantics for the connections and threads of one process.

It is the embedded broker of `feedbus.transports.sqlite` with another backend: a database in memory
instead of the file, no file locks, and any clock.
"""

from feedbus.transports.memory.broker import MemoryBroker, create, remove
from feedbus.transports.memory.transport import Transport

__all__ = ["MemoryBroker", "Transport", "create", "remove"]
