"""Message types without validation: JSON objects as dicts, and bodies as text or bytes.

A body that is read as text or bytes is a record with the single field RAW, which contains the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from feedbus.handling.message_types.record_loader import Loaded, Reads, RecordLoader
from feedbus.records.batch import Chunk
from feedbus.records.packs import Pack
from feedbus.records.raw_payload import RAW


class DictLoader(RecordLoader):
    """Loads records as dicts, without validation."""

    @property
    def name(self) -> str:
        """The empty text: this type has no name."""
        return ""

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of any object."""
        return {"type": "object"}

    def wire_fields(self) -> None:
        """Return None: a record may have any fields."""

    def _load(self, pack: Pack) -> Loaded:
        """Return the records of a pack as they are: every record is valid."""
        return Loaded(Chunk(pack.ids, pack.shared, pack.columns, range(len(pack))), {})


class BodyLoader(RecordLoader):
    """Loads the whole body of a message as text or bytes, for a handler of str or bytes.

    Args:
        kind: str or bytes.
    """

    def __init__(self, kind: type[str | bytes]) -> None:
        """Create the loader for str or for bytes."""
        self._kind = kind
        self.reads: Reads = "text" if kind is str else "bytes"

    @property
    def name(self) -> str:
        """The empty text: this type has no name."""
        return ""

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of any body."""
        return {"type": "string"} | ({"format": "binary"} if self._kind is bytes else {})

    def wire_fields(self) -> Sequence[str]:
        """Return no names: a body has no fields."""
        return ()

    def _load(self, pack: Pack) -> Loaded:
        """Return the text or bytes of a body.

        The message is invalid if it is a pack, or if a codec of the project has decoded its body
        to another type.

        Args:
            pack: the decoded message; a body that is a text or bytes is one record.

        Returns:
            The text or bytes, or the errors.
        """
        if isinstance(pack.shared.get(RAW), self._kind):
            chunk = Chunk(pack.ids, pack.shared, {}, range(len(pack)), itemgetter(RAW))
            return Loaded(chunk, {})
        text = f"expected a body of {self._kind.__name__}, got a record with fields"
        return Loaded(
            Chunk(pack.ids.select([]), {}, {}, []), {row: {"": [text]} for row in range(len(pack))}
        )
