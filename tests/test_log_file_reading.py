"""feedbus logs: the last entries of log files, and new ones, in the order of their times."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from feedbus.cli import main
from feedbus.logs.log_file_reading import FIRST_BYTES, LogFile
from tests.projects import wait_until

TOPOLOGY = """\
name = "shop"
[exchanges]
orders = { type = "x-consistent-hash" }
mails = { type = "fanout" }
[queues.reserve]
exchange = "orders"
shards = 2
handler = "app:handle"
[queues.mail]
exchange = "mails"
handler = "app:handle"
"""


def line(second: int, level: str = "INFO", text: str = "x") -> str:
    return f"2026-11-29T06:00:{second:02}.000Z {level} event=log message={text}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the logs of a project."""
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    logs = tmp_path / "var" / "log"
    logs.mkdir(parents=True)
    (logs / "mail.log").write_text(line(1) + line(4, "ERROR") + "  traceback\n  end\n")
    (logs / "reserve_0.log").write_text(line(2) + "printed\n")
    (logs / "reserve_1.log").write_text(line(3, "WARNING"))
    return logs


def shown(folder: Path, *words: str, code: int = 0) -> list[str]:
    path = str(folder.parent.parent / "topology.toml")
    done = CliRunner().invoke(main, ["--topology", path, "logs", *words])
    assert done.exit_code == code, done.output
    return done.output.splitlines()


def test_entries_of_all_files_are_shown_in_the_order_of_their_times(folder: Path) -> None:
    assert shown(folder) == [
        f"mail        {line(1)}".rstrip(),
        f"reserve_0   {line(2)}".rstrip(),
        "reserve_0   printed",
        f"reserve_1   {line(3, 'WARNING')}".rstrip(),
        f"mail        {line(4, 'ERROR')}".rstrip(),
        "mail          traceback",
        "mail          end",
    ]


def test_a_queue_means_its_shards_and_one_log_has_no_names(folder: Path) -> None:
    assert [each.split()[0] for each in shown(folder, "reserve")] == [
        "reserve_0",
        "reserve_0",
        "reserve_1",
    ]
    assert shown(folder, "mail", "-n", "1") == [line(4, "ERROR").rstrip(), "  traceback", "  end"]


def test_entries_below_a_level_are_left_out(folder: Path) -> None:
    assert [each.split()[0] for each in shown(folder, "--level", "warning")] == [
        "reserve_0",  # output without a level
        "reserve_1",
        "mail",
        "mail",
        "mail",
    ]


def test_json_entries_are_shown_as_they_are(folder: Path) -> None:
    path = folder.parent.parent / "topology.toml"
    path.write_text(f'{TOPOLOGY}[logging]\nformat = "json"\n')
    (folder / "mail.log").write_text(
        '{"time": "2026-11-29T06:00:00.000Z", "level": "INFO", "event": "log"}\n'
        '{"time": "2026-11-29T06:00:09.000Z", "level": "ERROR", "event": "log"}\n'
    )
    found = shown(folder, "mail", "reserve", "--level", "error")
    assert found[-1] == '{"time": "2026-11-29T06:00:09.000Z", "level": "ERROR", "event": "log"}'
    assert not any("06:00:00" in each for each in found)


def test_json_entries_have_no_name_in_front_whatever_the_format_of_the_reader_is(
    folder: Path,
) -> None:
    entry = '{"time": "2026-11-29T06:00:09.000Z", "level": "ERROR", "event": "log"}'
    (folder / "mail.log").write_text(f"{entry}\nprinted\n")
    assert shown(folder, "mail", "reserve")[-2:] == [entry, "mail       printed"]


def test_the_logs_of_a_removed_queue_can_be_read_by_its_name(folder: Path) -> None:
    (folder / "old_0.log").write_text(line(5))
    (folder / "old_1.log").write_text(line(6))
    (folder / "letters.log").write_text(line(7))
    assert shown(folder, "old") == [f"old_0  {line(5)}".rstrip(), f"old_1  {line(6)}".rstrip()]
    assert shown(folder, "old_1") == [line(6).rstrip()]
    assert shown(folder, "letters") == [line(7).rstrip()]
    assert shown(folder)[-1] == f"letters     {line(7)}".rstrip()


def test_without_logs_the_command_says_who_writes_them(tmp_path: Path) -> None:
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    (error,) = shown(tmp_path / "var" / "log", code=1)
    assert error.endswith("`feedbus up` writes them")
    (error,) = shown(tmp_path / "var" / "log", "mail", code=1)
    assert error.startswith(f"error: no logs of mail in {tmp_path}")
    (error,) = shown(tmp_path / "var" / "log", "nope", code=1)
    assert error.startswith("error: no consumer, queue or process named 'nope'; expected one of")
    (error,) = shown(tmp_path / "var" / "log", "reserv", code=1)
    assert error.endswith("of reserve, mail, operations, supervisor; did you mean 'reserve'?")


def test_as_many_entries_as_asked_are_found_in_a_large_file_and_in_older_ones(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mail.log"
    long = "y" * 1000
    path.write_text("".join(line(each % 60, text=long) for each in range(2 * FIRST_BYTES // 1000)))
    (tmp_path / "mail.log.1").write_text(line(58) + line(59))
    (tmp_path / "mail.log.2").write_text(line(57))

    def last(count: int) -> int:
        with LogFile("mail", path) as log:
            return len(log.last(count, logging.INFO))

    everything = last(10_000)
    assert everything == 2 * FIRST_BYTES // 1000 + 3
    assert [last(count) for count in (everything - 1, 5, 0)] == [everything - 1, 5, 0]


def test_new_entries_are_found_also_in_a_file_that_has_replaced_the_first(tmp_path: Path) -> None:
    path = tmp_path / "mail.log"
    log = LogFile("mail", path)
    assert (log.last(5, logging.INFO), log.new()) == ([], [])
    path.write_text(line(1) + "2026-11-29T06:00:02.000Z INFO beg")
    assert [each.lines for each in log.new()] == [(line(1).rstrip(),)]
    with path.open("a") as file:
        file.write("un\n  more\n")
    assert [each.lines for each in log.new()] == [
        ("2026-11-29T06:00:02.000Z INFO begun", "  more"),
    ]
    path.rename(tmp_path / "mail.log.1")
    path.write_text(line(3))
    with (tmp_path / "mail.log.1").open("a") as file:
        file.write("  late\n")
    first, second = log.new()
    assert (first.lines, first.level) == (("  late",), logging.INFO)
    assert second.lines == (line(3).rstrip(),)
    log.close()


@pytest.mark.processes
def test_follow_shows_new_lines_until_an_interrupt(folder: Path) -> None:
    command = [sys.executable, "-m", "feedbus", "logs", "-f", "-n", "1", "mail"]
    output: list[str] = []
    with subprocess.Popen(
        command, cwd=folder.parent.parent, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=lambda: output.extend(process.stdout or ()))
        reader.start()
        wait_until(lambda: len(output) == 3)
        with (folder / "mail.log").open("a") as file:
            file.write(line(5))
        wait_until(lambda: len(output) == 4)
        process.send_signal(signal.SIGINT)
        reader.join()
    assert output[-1] == line(5)
    assert process.returncode == 0
