"""Which mode handles the deliveries of a queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from feedbus.runner.base_mode import Mode
from feedbus.runner.batch_mode import BatchMode
from feedbus.runner.concurrent_mode import ConcurrentMode
from feedbus.runner.group_mode import GroupMode
from tests.small_topologies import queue
from tests.system_fixtures import closing_store
from tests.systems import System


@pytest.mark.parametrize(
    ("options", "batch", "stored", "mode"),
    [
        ({}, False, False, GroupMode),
        ({}, False, True, BatchMode),
        ({}, True, False, BatchMode),
        ({"stream": True}, False, False, BatchMode),
        ({"concurrency": 4}, False, False, ConcurrentMode),
        ({"concurrency": 4}, False, True, ConcurrentMode),
    ],
)
def test_only_records_without_a_transaction_are_handled_in_groups(
    options: dict[str, Any], batch: bool, stored: bool, mode: type[Mode], tmp_path: Path
) -> None:
    with closing_store():
        system = System.at(tmp_path, queue(**options), stored=stored)
        with system._runner(system.note, "work", batch, None, {}) as runner:
            assert type(runner._mode) is mode
            runner._mode.close()
