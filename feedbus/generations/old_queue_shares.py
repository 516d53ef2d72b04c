"""Which consumer of the current ring reads which queue of an old ring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    consumers = _tables(current)
    old_tables = _tables(old)
    new_tables = [name for name in consumers if consumers[name] not in old_tables.values()]
    found: dict[str, str] = {}
    for table, members in _by_table(old_tables).items():
        same_table = [name for name in consumers if consumers[name] == table]
        candidates = same_table or new_tables or list(consumers)
        for index, name in enumerate(members):
            if name in consumers:
                found[name] = name
            elif candidates:
                found[name] = candidates[index % len(candidates)]
    return found


def earlier_tables(current: Generation, old: Sequence[Generation]) -> Sequence[str]:
    """Return the names of the tables of old generations that the current generation does not have.

    Such a table was renamed or removed. The consumers of other tables handle its records.

    Args:
        current: the current generation.
        old: the old generations.

    """
    tables = {table: None for each in old for table in _tables(each).values()}
    return [table for table in tables if table not in _tables(current).values()]


def _tables(generation: Generation) -> Mapping[str, str]:
    """Return the name of the [queues.NAME] table of each member of a generation.

    The members of a table with shards are named `NAME_0`, `NAME_1` and so on. The only member of a
    table without shards has the name of the table, which can also end with a number.
    """
    names = [name for name, _ in generation.members]
    tables: dict[str, str] = {}
    for table, members in _by_table({name: queue_of(name) for name in names}).items():
        has_shards = members == [f"{table}_{number}" for number in range(len(members))]
        tables |= {name: table if has_shards else name for name in members}
    return {name: tables[name] for name in names}


def _by_table(tables: Mapping[str, str]) -> Mapping[str, list[str]]:
    members: dict[str, list[str]] = {}
    for name, table in tables.items():
        members.setdefault(table, []).append(name)
    return members
