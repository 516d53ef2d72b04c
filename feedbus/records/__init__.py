"""Records: many messages at once, how they travel, and how they are validated."""

from feedbus.records.rows import Chunk, Records

__all__ = ["Chunk", "Records"]
