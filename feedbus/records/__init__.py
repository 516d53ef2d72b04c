"""Records: batches of messages, their packs on the wire, and their validation."""

from feedbus.records.records import Records

__all__ = ["Records"]
