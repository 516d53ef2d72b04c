"""docs/how-to/embedded.md: what its Celery application leaves in the broker's file."""

from __future__ import annotations

import os
import subprocess
import sys

from feedbus.transports.sqlite.read_only_view import survey
from tests.pages import DOCS, ROOT, blocks
from tests.projects import PATIENCE_SECONDS

(TASKS,) = [b.text for b in blocks(DOCS / "how-to/embedded.md") if b.file == "tasks.py"]


def test_the_celery_application_publishes_to_its_file(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", f"{TASKS}\nbill.delay(7)\nbill.delay(8)"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ((name, arguments, ready, _, _),) = survey(tmp_path / "celery.db").queues
    assert (name, arguments, ready) == ("celery", {"x-max-priority": 9}, 2)
