"""Records: batches of them, packs on the wire, and messages that handlers publish."""

from feedbus.records.records import Records

__all__ = ["Records"]
