"""Which consumer of the current ring reads which queue of an old ring."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from feedbus.broker_names import queue_of
from feedbus.topology import Generation


def readers(current: Generation, old: Generation) -> Mapping[str, str]:
    """Return, for each member of an old generation, the consumer that reads its queue now.

    The handler of the consumer handles the records of the old queue. So the consumer should have
    the same handler as the old one. Both belong to a [queues.NAME] table, and several tables can be
    on one exchange. The reader is chosen in this order:

    1. the consumer with the same name;
    2. a consumer of the same table;
    3. a consumer of a table that the old generation does not have: the table may be the old one
       with another name;
    4. any consumer of the current generation.

    The result depends only on the generations, so all consumers compute the same result. The queues
    of a table are divided evenly among its readers in each of the last three cases.

    Args:
        current: the current generation.
        old: the old generation.

    Returns:
        A mapping of the names of the old consumers to the names of the current consumers. It is
        empty if the current generation has no members.

    """
    consumers = [name for name, _ in current.members]
    old_tables: dict[str, list[str]] = defaultdict(list)
    for name, _ in old.members:
        old_tables[queue_of(name)].append(name)
    new_tables = [name for name in consumers if queue_of(name) not in old_tables]
    found: dict[str, str] = {}
    for table, members in old_tables.items():
        same_table = [name for name in consumers if queue_of(name) == table]
        candidates = same_table or new_tables or consumers
        for index, name in enumerate(members):
            if name in consumers:
                found[name] = name
            elif candidates:
                found[name] = candidates[index % len(candidates)]
    return found
