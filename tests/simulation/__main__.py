"""make simulate: run seeds, or replay one.

Environment variables:
    SEEDS: FIRST..LAST; 1..1000 by default.
    SEED: one seed, which is replayed with its trace.
    FAULT: a fault of tests/simulation/planted, which is planted; the run ends when it is found.
        "all" plants each in turn.

"""

from __future__ import annotations

import os
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence

from tests.simulation.planted import FAULTS, planted
from tests.simulation.runs import Outcome, simulate

SHOWN = 4  # faults of a seed


def main() -> int:
    """Return 0 if no error was found, or if the planted error was found."""
    # Python finds the coroutines of a killed process unused.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    fault, seed = os.environ.get("FAULT", ""), os.environ.get("SEED", "")
    first, last = map(int, (os.environ.get("SEEDS") or "1..1000").split(".."))
    seeds = range(first, last + 1)
    if seed:
        with planted(fault):
            return replay(int(seed))
    if fault == "all":
        return max([search(each, seeds) for each in FAULTS])
    return search(fault, seeds) if fault else run(seeds)


def replay(seed: int) -> int:
    """Show what happens in one seed."""
    outcome = simulate(seed, tracing=True)
    say(str(outcome.scenario), *outcome.trace)
    say(f"seed {seed}: {outcome.events} events, {len(outcome.faults)} faults", *outcome.faults)
    return bool(outcome.faults)


def search(fault: str, seeds: Sequence[int]) -> int:
    """Plant a fault and run seeds until it is found."""
    with planted(fault):
        for count, seed in enumerate(seeds, 1):
            outcome = simulate(seed)
            if outcome.faults:
                say(f"{fault}: found by seed {seed}, the {count}. of these: {shown(outcome)}")
                return 0
    say(f"{fault}: not found within {len(seeds)} seeds")
    return 1


def run(seeds: Sequence[int]) -> int:
    """Run seeds, and show the errors."""
    started, events, found = time.monotonic(), [], 0
    paths: Counter[str] = Counter()
    for seed in seeds:
        outcome = simulate(seed)
        events.append(outcome.events)
        paths.update(outcome.reached)
        if outcome.faults:
            found += 1
            say(f"seed {seed}: {outcome.events} events: {shown(outcome)}")
    seconds = time.monotonic() - started
    say(
        f"{len(events):,} seeds in {seconds:,.0f} s, {len(events) / seconds:.1f} a second",
        f"events of a seed: {statistics.median(events):,.0f} in the median, {min(events):,} at"
        f" least, {max(events):,} at most; {sum(events):,} in all",
        f"paths: {', '.join(f'{path} {count:,}' for path, count in sorted(paths.items()))}",
        f"seeds with faults: {found}",
    )
    return bool(found)


def shown(outcome: Outcome) -> str:
    """Return the first faults of a seed in a line."""
    more = len(outcome.faults) - SHOWN
    return "; ".join(outcome.faults[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def say(*lines: str) -> None:
    """Write lines at once."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
