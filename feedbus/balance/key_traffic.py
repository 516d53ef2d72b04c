"""Routing keys, each with its traffic, from files or from a query of the store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from feedbus.balance.key_input import Keys, check_key
from feedbus.errors import UsageError
from feedbus.ring import key_class

DECIMALS = 6  # how many decimals the traffic of a key may have
UNIT = 10**DECIMALS
TRAFFIC_LIMIT = 10**15  # the traffic of a key must be below this number

Pair = tuple[str, int | Decimal]


@dataclass(slots=True)
class Tally:
    """The traffic of many keys: their numbers of records.

    The traffic is counted in units, as integers. A unit is one record. If the traffic of a key has
    decimals, a unit is a millionth of a record.

    `feedbus balance` and `feedbus plan` fill one Tally object with all keys that they read.

    Attributes:
        loads: maps each class of keys to its traffic, in units. A class is an integer; all keys of
            a class are always on the same shard of a ring.
        unit: how many units a record has: 1, or UNIT if the traffic of a key has decimals.
        keys: the number of pairs that were added; a key on two lines counts twice.
        heaviest: one key of the class with the most traffic; "" if there are no keys.

    """

    loads: dict[int, int] = field(default_factory=dict)
    unit: int = 1
    keys: int = 0
    heaviest: str = ""
    _heaviest_load: int = 0

    def add(self, pairs: Iterable[Pair]) -> None:
        """Add the traffic of keys.

        Args:
            pairs: the pairs (key, traffic); the traffic of a key is its number of records.

        """
        for key, traffic in pairs:
            if self.unit == 1 and traffic != int(traffic):
                self._refine()
            self.keys += 1
            class_of_key = key_class(key)
            load = self.loads.get(class_of_key, 0) + int(traffic * self.unit)
            self.loads[class_of_key] = load
            if load > self._heaviest_load:
                self.heaviest, self._heaviest_load = key, load

    def _refine(self) -> None:
        """Convert all traffic to the smaller unit, because the traffic of a key has decimals."""
        self.unit = UNIT
        self.loads = {each: load * UNIT for each, load in self.loads.items()}
        self._heaviest_load *= UNIT

    @property
    def total(self) -> int:
        """The traffic of all keys, in units; `unit` is the number of units of one record."""
        return sum(self.loads.values())

    @property
    def heaviest_load(self) -> int:
        """The traffic of the class of keys with the most traffic, in units, as for `total`.

        A class contains the keys that every ring puts on the same shard.
        """
        return self._heaviest_load


def pairs_of_keys(keys: Keys, traffic: str | None) -> Iterator[Pair]:
    """Yield a pair (key, traffic) for each key.

    `feedbus balance` and `feedbus plan` fill a Tally with the pairs.

    Args:
        keys: the source of the keys.
        traffic: where the traffic is. A number, from 2, is the number of a column of the source.
            Any other text is the path of a file of keys with their traffic; a key that is not in
            this file has the traffic 0. With None, each key has the traffic 1.

    Raises:
        UsageError: the traffic of a key cannot be read.

    """
    if traffic is None:
        return ((key, 1) for key in keys)
    if not traffic.isdecimal():
        return _from_table(keys, traffic)
    column = int(traffic)
    if keys.is_range or column < 2:  # noqa: PLR2004 -- the key is the first column
        msg = f"--traffic {traffic}: expected the number of a column of the file of keys, 2 or more"
        raise UsageError(msg)
    return (_columns(where, text, column) for where, text in keys.lines())


def pairs_of_rows(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], traffic: str | None
) -> Iterator[Pair]:
    """Yield a pair (key, traffic) for each row of a query.

    `feedbus balance` fills a Tally with the pairs, if the keys come from the store.

    Args:
        columns: the names of the columns; the first column has the keys.
        rows: the rows of the result.
        traffic: where the traffic is: the name or the number, from 1, of a column; or the path of a
            file of keys with their traffic. A key that is not in this file has the traffic 0. With
            None, the second column has the traffic; if there is only one column, each row has the
            traffic 1.

    Raises:
        UsageError: a key or its traffic cannot be read.

    """
    traffic_index = 1 if len(columns) > 1 else None
    lookup = None
    if traffic is not None:
        traffic_index = _column_index(columns, traffic)
        lookup = None if traffic_index is not None else _read_file(traffic)
    for number, row in enumerate(rows, 1):
        where = f"query: row {number}"
        key = _key_of(row[0], where)
        if lookup is not None:
            yield key, lookup.get(key, 0)
        else:
            yield key, 1 if traffic_index is None else _amount(row[traffic_index], where)


def _column_index(columns: Sequence[str], traffic: str) -> int | None:
    """Return the index of the column that --traffic names, or None if it names a file."""
    if traffic in columns:
        return columns.index(traffic)
    if not traffic.isdecimal():
        if Path(traffic).exists():
            return None
        msg = (
            f"--traffic {traffic}: the query has no such column, and there is no such file; "
            f"expected one of {', '.join(columns)}"
        )
        raise UsageError(msg)
    if not 1 <= int(traffic) <= len(columns):
        msg = f"--traffic {traffic}: expected a column from 1 to {len(columns)} of the query"
        raise UsageError(msg)
    return int(traffic) - 1


def _from_table(keys: Iterable[str], path: str) -> Iterator[Pair]:
    lookup = _read_file(path)
    return ((key, lookup.get(key, 0)) for key in keys)


def _read_file(path: str) -> dict[str, int | Decimal]:
    """Return the traffic of each key in a file; if a key is on two lines, add their traffic."""
    found: dict[str, int | Decimal] = {}
    for where, text in Keys(path).lines():
        key, traffic = _columns(where, text, 2)
        found[key] = found.get(key, 0) + traffic
    return found


def _columns(where: str, text: str, column: int) -> Pair:
    """Return the key and the traffic in a line, whose columns are separated by tabs or commas.

    Args:
        where: the position of the line, for the text of an error.
        text: the line; the first column is the key.
        column: the number of the column that has the traffic, from 2.

    """
    fields = text.split("\t" if "\t" in text else ",")
    if len(fields) < column:
        msg = (
            f"{where}: expected at least {column} columns, separated by tabs or commas: the first"
            f" is the key, and column {column} is its traffic; got {len(fields)}"
        )
        raise UsageError(msg)
    return check_key(fields[0], where), _amount(fields[column - 1].strip(), where)


def _key_of(value: Any, where: str) -> str:
    if value is None or isinstance(value, float | bool):
        shown = "nothing" if value is None else str(value)
        msg = f"{where}: expected a routing key, a text or an integer, got {shown}"
        raise UsageError(msg)
    if isinstance(value, bytes | memoryview):
        try:
            value = bytes(value).decode()
        except UnicodeDecodeError as error:
            msg = f"{where}: expected a routing key in UTF-8, got {error.reason}"
            raise UsageError(msg) from error
    return check_key(str(value), where)


def _amount(value: Any, where: str) -> int | Decimal:
    """Return the traffic in a column: a number of 0 or more, rounded to six decimals."""
    if isinstance(value, int) and 0 <= value < TRAFFIC_LIMIT:
        return value
    try:
        amount = Decimal(str(value))
        if 0 <= amount < TRAFFIC_LIMIT:  # NaN raises InvalidOperation here
            rounded = round(amount, DECIMALS)
            return int(rounded) if rounded == int(rounded) else rounded
    except InvalidOperation:
        pass
    shown = "nothing" if value is None else f"'{value}'"
    msg = f"{where}: expected traffic as a number from 0 up to {TRAFFIC_LIMIT:,}, got {shown}"
    raise UsageError(msg)
