"""Records: many messages at once, how they travel, and how they are validated."""

from feedbus.records.records import Records

__all__ = ["Records"]
