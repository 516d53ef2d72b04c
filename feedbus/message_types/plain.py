"""Records without validation: JSON objects as dicts."""

from __future__ import annotations

from feedbus.message_types.message_type import Loaded, MessageType
from feedbus.records.batch import Chunk
from feedbus.records.packs import Pack


class DictType(MessageType):
    """Records are the dicts that came."""

    def load(self, pack: Pack) -> Loaded:
        """Take everything."""
        return Loaded(Chunk(pack.ids, pack.shared, pack.columns, range(len(pack))), {})
