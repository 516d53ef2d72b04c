"""The examples of docs/how-to/embedded.md run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from feedbus.transports.sqlite.survey import survey

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "embedded.md").read_text()
KOMBU, CELERY, MEMORY = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(PRINTED,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)


def run(folder, source):
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_kombu_program_prints_what_the_page_says(tmp_path):
    assert run(tmp_path, KOMBU) == PRINTED


def test_the_celery_application_publishes_to_its_file(tmp_path):
    source = CELERY.replace("/var/lib/shop", str(tmp_path))
    run(tmp_path, f"{source}\nbill.delay(7)\nbill.delay(8)")
    ((name, arguments, ready, _, _),) = survey(tmp_path / "broker.db").queues
    assert (name, arguments, ready) == ("celery", {"x-max-priority": 9}, 2)


def test_the_broker_in_memory_waits_an_hour_at_once(tmp_path):
    run(tmp_path, MEMORY)
