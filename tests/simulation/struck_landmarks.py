"""Faults at moments that few seeds would interrupt by chance.

Most seeds with faults have them, at some of the landmarks that the seed can reach. Their random
numbers are a sequence of their own, so the other seeds do the same as without them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.simulation import channel, connection, network
from tests.simulation.landmarks import ADDED, ALL, Landmark, moves_records
from tests.simulation.replacing import replaced
from tests.simulation.scheduler import SECONDS
from tests.simulation.strikes import Strikes
from tests.simulation.system import System

SEED_SHARE = 0.8
ADDED_SHARE = 0.3  # of the seeds with faults that can reach an added landmark, for each of them
LANDMARKS = (1, 4, 99, 99)  # how many of them a seed has at most
# A seed that can move waiting records often has only landmarks of such moves, and half of these
# seeds have few late confirms. Otherwise few records are moved while faults happen.
MOVES_SHARE = 0.4
MOVES_NETWORK = ((network, "PROMPT_ANSWERS", 0.98),)
# Shares of the network that are larger in some of the seeds with landmarks.
BAD_NETWORK: tuple[
    tuple[Any, str, float, float], ...
] = (  # module, name, share, in a share of them
    (channel, "CUT_SHARE", 0.4, 0.7),
    (channel, "SLOW_SHARE", 0.4, 0.15),
    (channel, "LATE_ACKNOWLEDGEMENTS", 0.7, 0.1),
    (connection, "LATE_DELIVERIES", 0.3, 0.2),
    (network, "LINGER_SHARE", 0.8, 0.1),
)
MOST = 24  # faults of a seed, besides the first one at each landmark: some are reached late
MOST_OF_ONE = 3  # faults at a landmark
# Old queues are often emptied after the other faults have ended, which is after 100 s.
LAST_SECONDS = 150.0

NetworkShare = tuple[Any, str, float]  # the module, the name, and the share


class Landmarks:
    """The landmarks of one seed, and the faults that happen there."""

    def __init__(self, system: System) -> None:
        """Let no fault happen yet."""
        self._system = system
        self._chosen = random.Random(f"landmarks of seed {system.scheduler.seed}")
        self._strikes = Strikes(system, self._chosen)
        exist = self._chosen.random() < SEED_SHARE and system.scenario.faults > 0
        self._left, self._last_moment = MOST, int(LAST_SECONDS * SECONDS)
        self._counts: Counter[Landmark] = Counter()
        reached = [each for each in ALL if each.reached(system.scenario)]
        most = min(self._chosen.choice(LANDMARKS), len(reached))
        bad = [each for each in BAD_NETWORK if self._chosen.random() < each[-1]]
        self.network_shares: Iterable[NetworkShare] = [each[:3] for each in bad]
        self.struck = self._chosen.sample(reached, most) if exist else []
        if self.struck and moves_records(system.scenario) and not system.scenario.full:
            self._choose_moves([each for each in reached if each.of_move])
        # So the seeds without an added landmark do the same as before.
        added = random.Random(f"added landmarks of seed {system.scheduler.seed}")
        shares = [added.random() for _ in ADDED]
        self.struck += [
            each
            for each, share in zip(ADDED, shares, strict=True)
            if share < ADDED_SHARE and system.scenario.faults and each.reached(system.scenario)
        ]

    def _choose_moves(self, reached: list[Landmark]) -> None:
        """Strike only at landmarks of moves, in a share of the seeds.

        Args:
            reached: the landmarks of moves that the scenario can reach.

        """
        chosen = random.Random(f"moves of seed {self._system.scheduler.seed}")
        if chosen.random() < MOVES_SHARE:
            self.network_shares = chosen.choice(((), MOVES_NETWORK))
            self.struck = chosen.sample(reached, chosen.randint(1, len(reached)))

    def replacement(self, landmark: Landmark) -> Any:
        """Return a function that calls the one of a landmark, and may strike."""
        original = landmark.owner.__dict__[landmark.name]

        def call(*arguments: Any, **options: Any) -> Any:
            can_be_struck = landmark.when(*arguments, **options) and (
                landmark.within is None or self._system.process() in landmark.within(self._system)
            )
            if can_be_struck and landmark.before and self._is_struck(landmark):
                self._strike(landmark)
            result = original(*arguments, **options)
            if (
                can_be_struck
                and not landmark.before
                and landmark.found(result)
                and self._is_struck(landmark)
            ):
                self._strike(landmark)
            return result

        return call

    def _is_struck(self, landmark: Landmark) -> bool:
        count = self._counts[landmark]
        if count == MOST_OF_ONE or self._system.scheduler.now > self._last_moment:
            return False
        if (count and not self._left) or self._chosen.random() >= landmark.share:
            return False
        self._left -= count > 0
        self._counts[landmark] += 1
        return True

    def _strike(self, landmark: Landmark) -> None:
        self._system.scheduler.note(f"LANDMARK {landmark.name}")
        self._chosen.choice(landmark.strikes)(self._strikes)
        if self._chosen.random() < landmark.last:
            self._system.scheduler.note("NO MORE FAULTS", by="-")
            self._system.network.faulty, self._last_moment = False, 0


@contextmanager
def struck_landmarks(system: System) -> Iterator[None]:
    """Let faults happen at landmarks within the block."""
    marks = Landmarks(system)
    if not marks.struck:
        yield
        return
    with ExitStack() as stack:
        for module, name, share in marks.network_shares:
            stack.enter_context(replaced(module, name, share))
        for landmark in marks.struck:
            replacement = marks.replacement(landmark)
            stack.enter_context(replaced(landmark.owner, landmark.name, replacement))
        yield
