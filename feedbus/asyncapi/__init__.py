"""The AsyncAPI document of a topology: the messages that it publishes and consumes, with types."""

from feedbus.asyncapi.document import document

__all__ = ["document"]
