"""Message types: how a record of each type is validated and loaded."""

from feedbus.handling.message_types.message_type import (
    Errors,
    Loaded,
    MessageType,
    UnfitMessageType,
)
from feedbus.handling.message_types.record_annotation import row_type
from feedbus.handling.message_types.type_lookup import message_type_of

__all__ = ["Errors", "Loaded", "MessageType", "UnfitMessageType", "message_type_of", "row_type"]
