"""Explore all states from a start: the search that the models share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Protocol, TypeVar


class AnyWorld(Hashable, Protocol):
    """The state of a model.

    Attributes:
        fault: the error that was found, or "".

    """

    @property
    def fault(self) -> str: ...


World = TypeVar("World", bound=AnyWorld)


def explore_from(
    start: World,
    following: Callable[[World], Iterable[World]],
    unfinished: Callable[[World], str],
) -> tuple[int, str]:
    """Explore all states from a start; return their number and the first fault, if any.

    Args:
        start: the first world.
        following: returns what may come next. A world that follows itself is no step.
        unfinished: returns the errors of a state in which nothing more can happen.

    """
    seen, left = {start}, [start]
    while left:
        world = left.pop()
        steps = [each for each in following(world) if each != world]
        if not steps and (stuck := unfinished(world)):
            return len(seen), stuck
        for each in steps:
            if each.fault:
                return len(seen), each.fault
            if each not in seen:
                seen.add(each)
                left.append(each)
    return len(seen), ""
