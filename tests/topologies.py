"""Topologies for tests, in which a mark stands before what a problem must point at."""

from __future__ import annotations

from pathlib import Path

import pytest

from feedbus import config
from feedbus.errors import Problem, TopologyError

PROJECT = Path(__file__).parent.parent
MARK = "▸"  # stands before what a problem must point at, and is taken out before reading

START = """\
name = "shop"
[exchanges]
orders = { type = "direct" }
mail = { type = "topic" }
news = { type = "fanout" }
feed = { type = "x-consistent-hash" }
"""
ORDERS = """\
[queues.orders]
exchange = "orders"
routing_keys = ["new"]
handler = "handlers.orders:take"
"""
STOCKTAKING = """
name = "shop"
[exchanges]
orders = { type = "topic" }
[queues.count]
exchange     = "orders"
routing_keys = ["stock.#"]
handler      = "stock:count"
[schedules.nightly]
cron     = "30 2 * * *"
timezone = "Europe/Berlin"
exchange = "orders"
key      = "stock.all"
payload  = { kind = "stocktaking", shelves = [1, 2] }
"""
FEED = """\
[queues.feed]
exchange = "feed"
handler = "handlers.feed:take"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "topology.toml"
    path.write_bytes(text.encode())
    return path


def problems_of(path: Path, **options) -> tuple[Problem, ...]:
    with pytest.raises(TopologyError) as caught:
        config.load(path, **{"environ": {}, **options})
    return caught.value.problems


def places(marked: str) -> list[str]:
    """Return LINE:COLUMN of every mark, as an editor counts them."""
    found, line, column = [], 1, 1
    for sign in marked:
        if sign == MARK:
            found.append(f"{line}:{column}")
        elif sign == "\n":
            line, column = line + 1, 1
        else:
            column += 1
    return found


def assert_reported(folder: Path, marked: str, *reported: str, **options) -> None:
    """Assert that exactly these problems are reported, each at its mark."""
    path = write(folder, marked.replace(MARK, ""))
    expected = [f"{path}:{at}: {text}" for at, text in zip(places(marked), reported, strict=True)]
    assert [str(problem) for problem in problems_of(path, **options)] == expected
