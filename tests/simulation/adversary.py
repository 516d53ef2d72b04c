"""An adversary, which strikes at moments that it recognizes by the functions of feedbus that run.

The name of a moment consists of the innermost functions of feedbus that are on the stack when a
process asks the broker for something, sends messages or acknowledges deliveries. So a rare line of
feedbus has a name of its own, however often the usual lines run.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from tests.simulation.strikes import Strikes
from tests.simulation.system import System

SEED_SHARE = 0.35  # of the seeds with faults
DEPTH = 3  # functions in a name
PACKAGE, PORT = "feedbus.", "feedbus.transports."  # modules with and without names of moments
MOST = 6  # strikes of a seed, besides those that let a process stand still
MOST_STILL = 10
# An adversary strikes at the first of the moments with a name, or at those with a few names only.
FIRST = 2  # moments of a name
FIRST_SHARES = (0.02, 0.08, 0.3)
MARKED_SHARES = (0.03, 0.1)  # of the names
STRUCK_SHARE = 0.5  # of the moments with these names

Strike = Callable[[Strikes], None]

STRIKES: tuple[Strike, ...] = (
    *(Strikes.kill, Strikes.kill_for_long, Strikes.cut, Strikes.cut_after),
    *(Strikes.stand_still, Strikes.stand_still, Strikes.stand_still),
)


class Adversary:
    """The adversary of one seed."""

    def __init__(self, system: System) -> None:
        """Choose how to strike. The random numbers are a sequence of their own."""
        seed = system.scheduler.seed
        chosen = self._chosen = random.Random(f"adversary of seed {seed}")
        self.exists = system.scenario.faults > 0 and chosen.random() < SEED_SHARE
        self._system = system
        self._strikes = Strikes(system, chosen)
        self._left, self._left_still = MOST, MOST_STILL
        self._first_share = chosen.choice(FIRST_SHARES)
        self._marked_share = chosen.choice((0.0, *MARKED_SHARES))
        self._met: Counter[str] = Counter()
        self._strike_of = cache(self._mark)

    def _mark(self, name: str) -> Strike | None:
        """Return what always happens at the moments with a name; None if nothing does."""
        chosen = random.Random(f"{self._system.scheduler.seed} {name}")
        return chosen.choice(STRIKES) if chosen.random() < self._marked_share else None

    def meet(self) -> None:
        """Strike, or do nothing; called at each moment."""
        if not self._system.network.faulty or self._system.process() is None:
            return
        name = name_of_moment()
        if not name:
            return
        self._met[name] += 1
        strike = self._choose(name)
        if strike is None:
            return
        still = strike is Strikes.stand_still
        if (self._left_still if still else self._left) <= 0:
            return
        self._left_still -= still
        self._left -= not still
        self._system.scheduler.note(f"THE ADVERSARY: {strike.__name__} at {name}")
        strike(self._strikes)

    def _choose(self, name: str) -> Strike | None:
        if self._marked_share:
            marked = self._strike_of(name)
            return marked if marked and self._chosen.random() < STRUCK_SHARE else None
        if self._met[name] > FIRST or self._chosen.random() >= self._first_share:
            return None
        return self._chosen.choice(STRIKES)


def name_of_moment() -> str:
    """Return the innermost functions of feedbus that are on the stack; "" if there are none."""
    names: list[str] = []
    frame = sys._getframe(2)
    while frame is not None and len(names) < DEPTH:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(PACKAGE) and not module.startswith(PORT):
            names.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return " < ".join(names)


@contextmanager
def opposed(system: System) -> Iterator[None]:
    """Let an adversary strike within the block, in a share of the seeds."""
    adversary = Adversary(system)
    if adversary.exists:
        system.network.meet = adversary.meet
    yield
