"""Columns of records that are instances of a class: one column for each attribute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Attributes(Mapping[str, Sequence[Any]]):
    """Maps attribute names to lists with one value for each instance.

    Each access reads the attribute of all instances. feedbus uses this class for records that
    handlers get as instances of a class. So a column is read only when a handler uses it.

    Attributes:
        instances: the records.
        names: the names of the attributes that every instance has.

    """

    instances: Sequence[Any]
    names: Sequence[str]

    def __getitem__(self, name: str) -> Sequence[Any]:
        """Return the values of one attribute, one for each instance."""
        if name not in self.names:
            raise KeyError(name)
        return list(map(attrgetter(name), self.instances))

    def __contains__(self, name: object) -> bool:
        """Whether the instances have an attribute of that name."""
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the attributes."""
        return iter(self.names)

    def __len__(self) -> int:
        """Count the names."""
        return len(self.names)


def attributes_of(instance: object) -> Sequence[str]:
    """Return the field names of an instance of a dataclass, Struct or pydantic model.

    For any other object, return the names of its attributes.

    Args:
        instance: the object.

    """
    kind = type(instance)
    for attribute in ("__pydantic_fields__", "__struct_fields__", "__dataclass_fields__"):
        if hasattr(kind, attribute):
            return list(getattr(kind, attribute))
    return list(getattr(instance, "__dict__", {}))
