"""The demo as a new user runs it, also while its processes are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.projects import (
    PATIENCE_SECONDS,
    environment_without_options,
    run_feedbus,
    status,
    wait_until,
)

ROOT = Path(__file__).parents[2]
SMALL = ("demo", "--authors", "5", "--followers", "2000", "--tweets", "150")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """The reference application in a separate folder; processes that still run there are ended."""
    for name in ("handlers", "web", "store", "topology.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    yield tmp_path
    for pid in processes(tmp_path):
        os.kill(pid, signal.SIGKILL)


def set_shards(project: Path, count: int) -> None:
    """Give the project a topology with that many shards; the start of each takes half a second."""
    text = (ROOT / "topology.toml").read_text()
    (project / "topology.toml").unlink()
    (project / "topology.toml").write_text(text.replace("shards   = 10", f"shards   = {count}"))


def start(project: Path) -> subprocess.Popen[str]:
    """Start a small demo."""
    environment = environment_without_options()
    words = [sys.executable, "-m", "feedbus", "--topology", str(project / "topology.toml"), *SMALL]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment, cwd=project, start_new_session=True,
    )  # fmt: skip


def processes(project: Path) -> dict[int, str]:
    """Return the processes of a project by their command lines: consumers, web, supervisor."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            where = (folder / "cwd").readlink()
        except OSError:
            continue
        kinds = (" run ", " up", " operations", "-m web")
        if where == project and any(kind in command for kind in kinds):
            found[int(folder.name)] = command
    return found


def counts(output: str) -> list[int]:
    """Read the demo's last counts: feed entries, e-mails, SMS."""
    line = re.search(r"([\d,]+) feed entries, ([\d,]+) e-mails, ([\d,]+) SMS: as expected", output)
    assert line, output
    return [int(text.replace(",", "")) for text in line.groups()]


def test_a_demo_counts_what_it_has_to_and_leaves_nothing_running(project: Path) -> None:
    with start(project) as demo:
        output, _ = demo.communicate(timeout=PATIENCE_SECONDS)
    assert demo.returncode == 0, output
    entries, emails, messages = counts(output)
    assert emails + messages == entries > 10_000
    assert len(re.findall(r"^update_feed_\d +[\d,]+ +[\d,]+", output, re.MULTILINE)) == 10
    assert "\033" not in output
    assert processes(project) == {}


@pytest.mark.parametrize(
    "victims",
    [
        ("run update_feed_2 ", "run publish_tweet ", "run send_notification.email ", "-m web"),
        (" up",),
    ],
    ids=["consumers and web", "supervisor"],
)
def test_a_kill_during_a_demo_changes_nothing_in_its_counts(
    project: Path, victims: tuple[str, ...]
) -> None:
    set_shards(project, 3)
    with start(project) as demo:
        killed: dict[int, str] = {}
        deadline = time.monotonic() + PATIENCE_SECONDS
        rounds = 1 if victims == (" up",) else 3
        while (
            demo.poll() is None
            and time.monotonic() < deadline
            and len(killed) < len(victims) * rounds
        ):
            for pid, command in processes(project).items():
                if has_tweets(project) and pid not in killed and any(v in command for v in victims):
                    os.kill(pid, signal.SIGKILL)
                    killed[pid] = command
            time.sleep(0.15)
        output, _ = demo.communicate(timeout=PATIENCE_SECONDS)
    assert demo.returncode == 0, output
    assert [v for v in (victims[0], victims[-1]) if not any(v in c for c in killed.values())] == []
    counts(output)
    assert processes(project) == {}


def has_tweets(project: Path) -> bool:
    """Whether the demo has begun to fill feeds."""
    metrics = project / "var/demo/metrics"
    return (
        any(path.name.startswith("update_feed_") for path in metrics.glob("*"))
        and (project / "var/demo/feeds.db-wal").exists()
    )


def test_changed_shards_work_after_down_and_up(project: Path) -> None:
    set_shards(project, 3)
    environment = environment_without_options()
    environment["FEEDBUS_HTTP_PORT"] = "0"
    environment["FEEDBUS_OPERATIONS_PORT"] = "0"

    def feedbus(*words: str) -> str:
        return run_feedbus(project, environment, *words).stdout

    def publish(first: int) -> None:
        lines = project / "lines.jsonl"
        tweet = {"author": "a", "authorId": 1, "text": "t", "createdAt": "2026-01-01T00:00:00Z"}
        lines.write_text(
            "".join(
                json.dumps({**tweet, "id": n, "followerId": n}) + "\n"
                for n in range(first, first + 300)
            )
        )
        feedbus("publish", "update_feed", "--file", str(lines), "--key-field", "followerId")

    feedbus("up", "--detach")
    feedbus("down")
    publish(1)
    set_shards(project, 4)
    feedbus("up", "--detach")
    publish(1001)

    def settled() -> dict[str, int]:
        reported = status(project / "topology.toml", environment)["consumers"]
        return {
            name: one["handled"] or 0
            for name, one in reported.items()
            if name.startswith("update_feed")
        }

    try:
        wait_until(lambda: sum(settled().values()) >= 600, settled)
        found = settled()
    finally:
        feedbus("down")
    assert sum(found.values()) == 600
    assert len(found) == 4
    assert all(found.values())
