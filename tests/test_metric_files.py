"""Counters are correct, whatever happens to the counting processes and to their files."""

import logging
import math
import struct
import threading

import pytest

from feedbus.metrics import Metrics, totals
from feedbus.metrics.counter_file import SEGMENT_BYTES, Counts
from tests.counting import finish, record, samples, start

COUNT_ALOUD = """
metrics = Metrics.open(directory, "update_feed_3")
consumer = metrics.consumer("update_feed_3")
while True:
    consumer.settled("ack", 1, 1000)
    print("counted", flush=True)
"""
MAKE_SERIES = """
metrics = Metrics.open(directory, "many")
print("counted", flush=True)
for number in range(400):
    metrics.published(f"{sys.argv[2]}.{number}", "confirmed")
print("all made", flush=True)
"""
COUNT_MUCH = """
with Metrics.open(directory, sys.argv[2]) as metrics:
    consumer = metrics.consumer("shared")
    for _ in range(20_000):
        consumer.settled("ack", 1, 3)
        consumer.lag(0.5)
"""


def test_counts_go_on_in_one_file_when_their_process_is_killed_and_started_again(tmp_path):
    reported = 0
    for life in range(1, 5):
        process = start(COUNT_ALOUD, tmp_path)
        for _ in range(50 * life):
            assert process.stdout.readline() == "counted\n"
        process.kill()
        reported += 50 * life + process.stdout.read().count("counted\n")
        process.communicate()
        counted = samples(tmp_path)["feedbus_deliveries_total", "ack", "update_feed_3"]
        # It may have been killed after it counted and before it reported that.
        assert reported <= counted <= reported + life
    # The two counters of a delivery are two writes, and a kill may come between them.
    assert reported * 1000 <= totals(tmp_path)["update_feed_3"]["ack"] <= counted * 1000
    assert [path.name for path in tmp_path.iterdir()] == ["update_feed_3.counts"]


def test_a_process_killed_while_it_makes_series_leaves_a_file_that_its_next_life_takes(tmp_path):
    for life in range(6):
        process = start(MAKE_SERIES, tmp_path, str(life))
        assert process.stdout.readline() == "counted\n"
        threading.Event().wait(0.002 * life)
        process.kill()
        process.communicate()
        assert samples(tmp_path)["feedbus_metric_files_unreadable",] == 0
    finish(start(MAKE_SERIES, tmp_path, "last"))
    found = samples(tmp_path)
    assert all(
        found["feedbus_published_total", "confirmed", f"last.{number}"] == 1
        for number in range(400)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["many.counts"]


def truncated(content):
    return content[:1000]


def cut_in_its_header(content):
    return content[:5]


def of_another_kind(content):
    return b"SQLite format 3\0" + content[16:]


def with_no_number(content):
    one = struct.pack("=d", 10.0)
    assert one in content
    return content.replace(one, struct.pack("=d", math.nan), 1)


def with_a_number_below_0(content):
    return content.replace(struct.pack("=d", 10.0), struct.pack("=d", -1e300), 1)


def with_a_key_that_is_no_text(content):
    return content.replace(b"feedbus_records", b"feedbus_\xff\xfeecords", 1)


def with_a_key_that_is_no_series(content):
    return content.replace(b'["feedbus_records_total"', b'{"feedbus_records_total"', 1)


def with_an_entry_that_never_ends(content):
    return content[:16] + b"\xff" * 8 + content[24:]


def with_more_in_use_than_there_is(content):
    return content[:8] + struct.pack("=Q", 1 << 40) + content[16:]


def with_an_odd_end(content):
    return content[:8] + struct.pack("=Q", 21) + content[16:]


DAMAGES = [
    truncated,
    cut_in_its_header,
    of_another_kind,
    with_no_number,
    with_a_number_below_0,
    with_a_key_that_is_no_text,
    with_a_key_that_is_no_series,
    with_an_entry_that_never_ends,
    with_more_in_use_than_there_is,
    with_an_odd_end,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_costs_only_itself_and_is_reported_once(tmp_path, caplog, damage):
    record(tmp_path, "good", 7)
    record(tmp_path, "bad")
    damaged = tmp_path / "bad.counts"
    damaged.write_bytes(damage(damaged.read_bytes()))
    for _ in range(3):
        found = samples(tmp_path)
    assert found["feedbus_deliveries_total", "ack", "good"] == 7
    assert ("feedbus_deliveries_total", "ack", "bad") not in found
    assert found["feedbus_metric_files_unreadable",] == 1
    assert caplog.text.count(str(damaged)) == 1


@pytest.mark.parametrize("damage", [truncated, of_another_kind, with_no_number, with_an_odd_end])
def test_a_process_whose_file_is_damaged_sets_it_aside_and_counts(tmp_path, caplog, damage):
    record(tmp_path, "bad")
    damaged = tmp_path / "bad.counts"
    damaged.write_bytes(damage(damaged.read_bytes()))
    with caplog.at_level(logging.WARNING):
        record(tmp_path, "bad", 3)
    assert "renamed to bad.counts.unreadable" in caplog.text
    found = samples(tmp_path)
    assert found["feedbus_deliveries_total", "ack", "bad"] == 3
    assert found["feedbus_metric_files_unreadable",] == 1


@pytest.mark.parametrize("content", [b"", bytes(100), bytes(SEGMENT_BYTES)])
def test_a_file_whose_writer_was_stopped_before_its_first_word_is_taken_as_empty(tmp_path, content):
    (tmp_path / "early.counts").write_bytes(content)
    assert samples(tmp_path) == {("feedbus_metric_files_unreadable",): 0}
    record(tmp_path, "early", 2)
    assert samples(tmp_path)["feedbus_deliveries_total", "ack", "early"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["early.counts"]


def test_two_processes_of_one_name_lose_no_count_and_leave_no_more_files_than_they_were(tmp_path):
    for _ in range(3):
        with Metrics.open(tmp_path, "publish") as one, Metrics.open(tmp_path, "publish") as other:
            one.published("update_feed", "confirmed", 5)
            other.published("update_feed", "confirmed", 7)
    assert samples(tmp_path)["feedbus_published_total", "confirmed", "update_feed"] == 36
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["publish.counts", "publish~1.counts"]


def test_processes_count_at_once_while_they_are_read(tmp_path):
    processes = [start(COUNT_MUCH, tmp_path, f"process {number}") for number in range(3)]
    seen = [0.0]
    while any(process.poll() is None for process in processes):
        found = samples(tmp_path)
        assert found["feedbus_metric_files_unreadable",] == 0
        seen.append(found.get(("feedbus_deliveries_total", "ack", "shared"), 0.0))
        threading.Event().wait(0.02)
    for process in processes:
        finish(process)
    assert seen == sorted(seen)
    found = samples(tmp_path)
    assert found["feedbus_records_total", "ack", "shared"] == 3 * 20_000 * 3
    assert found["feedbus_lag_seconds_count", "shared"] == 3 * 20_000
    assert found["feedbus_lag_seconds_sum", "shared"] == 3 * 20_000 * 0.5


def test_a_series_that_another_version_left_with_other_buckets_is_passed_over(tmp_path):
    counts = Counts.claim(tmp_path, "x")
    counts.numbers('["feedbus_lag_seconds","x"]', 3)[0] = 5.0
    counts.numbers('["feedbus_gone_total","x"]', 1)[0] = 5.0
    counts.close()
    record(tmp_path, "x")
    found = samples(tmp_path)
    assert found["feedbus_deliveries_total", "ack", "x"] == 1
    assert found["feedbus_lag_seconds_count", "x"] == 0
    assert not any("gone" in key[0] for key in found)


def test_files_are_their_owners_alone_and_no_name_leaves_the_folder(tmp_path):
    directory = tmp_path / "var" / "metrics"
    record(directory, "../../x y")
    assert directory.stat().st_mode & 0o777 == 0o700
    (path,) = directory.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert samples(directory)["feedbus_deliveries_total", "../../x y", "ack"] == 1


def limit_files_to_one_segment():
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (SEGMENT_BYTES, SEGMENT_BYTES))


def test_a_full_disk_stops_no_process_and_spoils_no_file(tmp_path):
    process = start(MAKE_SERIES, tmp_path, "x", preexec_fn=limit_files_to_one_segment)
    output, errors = process.communicate()
    assert output == "counted\nall made\n", errors
    assert "its new metrics are not exported" in errors
    found = samples(tmp_path)
    assert found["feedbus_published_total", "confirmed", "x.0"] == 1
    assert ("feedbus_published_total", "confirmed", "x.399") not in found
    assert found["feedbus_metric_files_unreadable",] == 0


def test_a_folder_that_cannot_be_made_is_reported_and_stops_nothing(tmp_path, caplog):
    (tmp_path / "file").touch()
    with Metrics.open(tmp_path / "file" / "metrics", "x") as metrics:
        metrics.consumer("x").settled("ack")
        assert metrics.value("feedbus_deliveries_total", "x", "ack") == 1
    assert "the metric files of x cannot be written" in caplog.text
