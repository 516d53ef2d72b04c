"""The AsyncAPI document of a topology: what it publishes, what it consumes, and of which types."""

from feedbus.asyncapi.document import document

__all__ = ["document"]
