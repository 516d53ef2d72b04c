"""Message types: how a record of each type is validated and loaded."""

from feedbus.handling.message_types.record_annotation import row_type
from feedbus.handling.message_types.record_loader import (
    Errors,
    Loaded,
    RecordLoader,
    UnfitMessageType,
)
from feedbus.handling.message_types.type_lookup import loader_of

__all__ = ["Errors", "Loaded", "RecordLoader", "UnfitMessageType", "loader_of", "row_type"]
