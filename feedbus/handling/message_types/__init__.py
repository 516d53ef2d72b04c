"""Message types: how records are validated and loaded; see record_loader."""

from feedbus.handling.message_types.record_annotation import row_type
from feedbus.handling.message_types.record_loader import (
    Errors,
    Loaded,
    RecordLoader,
    UnfitMessageType,
)
from feedbus.handling.message_types.type_lookup import loader_of

__all__ = ["Errors", "Loaded", "RecordLoader", "UnfitMessageType", "loader_of", "row_type"]
