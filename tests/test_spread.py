"""feedbus spread: its predictions, and its errors."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest
from click.testing import CliRunner

from feedbus import config
from feedbus.cli import main
from feedbus.ring import Ring
from tests.projects import PATIENCE_SECONDS

TOPOLOGY = """
name = "house"
[broker]
url = "sqlite:///broker.db"
[store]
url = "sqlite:///store.db"
[exchanges]
feed = {{ type = "x-consistent-hash" }}
idle = {{ type = "x-consistent-hash" }}
mail = {{ type = "topic" }}
[queues.update_feed]
exchange = "feed"
shards = {shards}
weights = {{ 1 = 2 }}
handler = "handlers:update_feed"
[queues.audit]
exchange = "feed"
handler = "handlers:audit"
[queues.send]
exchange = "mail"
routing_keys = ["email"]
handler = "handlers:send"
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "topology.toml"
    file.write_text(TOPOLOGY.format(shards=3))
    return file


@pytest.fixture
def spread(path):
    """Return a function that runs the command."""

    def run(*arguments, stdin=None):
        words = ["--topology", str(path), "spread", *map(str, arguments)]
        return CliRunner().invoke(main, words, input=stdin)

    return run


def placed(path, keys):
    ring = Ring.of(config.load(path).generation("feed").members)
    return [ring.route(key) for key in keys]


def test_each_shard_gets_the_records_that_the_ring_predicts(spread, path):
    report = json.loads(spread("update_feed", "--keys", "1..500", "--json").stdout)
    expected = Counter(placed(path, map(str, range(1, 501))))
    assert report["exchange"] == "feed"
    assert report["records"] == 500
    assert [(shard["name"], shard["weight"]) for shard in report["shards"]] == [
        ("update_feed_0", 1),
        ("update_feed_1", 2),
        ("update_feed_2", 1),
        ("audit", 1),
    ]
    for shard in report["shards"]:
        assert shard["records"] == expected[shard["name"]]
        assert shard["share"] == shard["records"] / 500
    assert report["max_over_mean"] == round(max(expected.values()) / 125, 4)
    weights = {"update_feed_1": 2}
    busiest = max(count / weights.get(name, 1) for name, count in expected.items())
    assert report["max_over_share"] == round(busiest / 100, 4)


def test_shards_stand_in_the_order_of_their_numbers(spread, path):
    path.write_text(TOPOLOGY.format(shards=12))
    report = json.loads(spread("update_feed", "--json").stdout)
    names = [shard["name"] for shard in report["shards"]]
    assert names == [*(f"update_feed_{number}" for number in range(12)), "audit"]


def test_the_exchange_and_each_queue_on_it_name_one_ring(spread):
    by_exchange = spread("feed", "--json")
    assert by_exchange.exit_code == 0
    assert spread("update_feed", "--json").stdout == by_exchange.stdout
    assert spread("audit", "--json").stdout == by_exchange.stdout


def test_ten_thousand_numbers_are_the_keys_by_default(spread):
    assert spread("feed", "--json").stdout == spread("feed", "--keys", "1..10000", "--json").stdout


def test_keys_come_from_the_lines_of_a_file(spread, path, tmp_path):
    keys = ["anna", "björn", "two words", "anna"]
    file = tmp_path / "keys.txt"
    file.write_bytes("\ufeffanna\r\nbjörn\n\ntwo words\nanna".encode())
    report = json.loads(spread("feed", "--keys", file, "--json").stdout)
    records = {shard["name"]: shard["records"] for shard in report["shards"] if shard["records"]}
    assert records == Counter(placed(path, keys))


def test_keys_come_from_standard_input(spread, path):
    report = json.loads(spread("feed", "--keys", "-", "--json", stdin="7\n8\n").stdout)
    records = {shard["name"]: shard["records"] for shard in report["shards"] if shard["records"]}
    assert records == Counter(placed(path, ["7", "8"]))


def test_a_table_shows_records_shares_and_evenness_without_bars_in_a_pipe(spread, path):
    found = spread("feed", "--keys", "1..1000")
    expected = Counter(placed(path, map(str, range(1, 1001))))
    rows = [line.split() for line in found.stdout.splitlines()]
    assert rows[0] == ["SHARD", "WEIGHT", "RECORDS", "SHARE"]
    for name, weight in (("update_feed_0", 1), ("update_feed_1", 2), ("audit", 1)):
        count = expected[name]
        assert [name, str(weight), str(count), f"{count / 1000:.2%}"] in rows
    weights = {"update_feed_1": 2}
    times = max(count / weights.get(name, 1) for name, count in expected.items()) / 200
    reported = (
        f"1,000 records over 4 shards: the busiest gets {times:.3f} times its share by weight"
    )
    assert reported in found.stdout


def test_a_terminal_gets_a_bar_for_each_shard_the_busiest_the_longest(path):
    leader, follower = os.openpty()
    words = [sys.executable, "-m", "feedbus", "--topology", path, "spread", "feed"]
    environment = os.environ | {"PYTHONUTF8": "1"}
    with os.fdopen(leader, "rb", buffering=0) as terminal:
        subprocess.run(
            words, check=True, stdout=follower, env=environment, timeout=PATIENCE_SECONDS
        )
        os.close(follower)
        lines = terminal.read(65_536).decode().splitlines()
    bars = [line.count("█") for line in lines if line.startswith(("update_feed_", "audit"))]
    assert len(bars) == 4
    assert min(bars) > 0
    assert max(bars) == bars[1] == 40


def test_against_another_topology_it_reports_which_keys_move_and_where(spread, path, tmp_path):
    before = tmp_path / "before.toml"
    before.write_text(TOPOLOGY.format(shards=2))
    keys = [str(number) for number in range(1, 1001)]
    pairs = Counter(zip(placed(before, keys), placed(path, keys), strict=True))
    moves = {pair: records for pair, records in pairs.items() if pair[0] != pair[1]}
    assert moves
    words = ("feed", "--keys", "1..1000", "--against", before)
    report = json.loads(spread(*words, "--json").stdout)
    against = report["against"]
    assert {(one["from"], one["to"]): one["records"] for one in against["moves"]} == moves
    assert against["moved"] == sum(moves.values())
    assert against["moved_share"] == sum(moves.values()) / 1000
    largest_first = [one["records"] for one in against["moves"]]
    assert largest_first == sorted(largest_first, reverse=True)
    earlier = Counter(placed(before, keys))
    assert {one["name"]: one["records"] for one in against["shards"]} == earlier
    assert {one["name"]: one["records"] for one in report["shards"]} == Counter(placed(path, keys))

    text = spread(*words).stdout
    assert f"from {before} to {path}: {sum(moves.values()):,} of 1,000 records" in text
    assert "times its share by weight" in text


def test_against_itself_nothing_moves(spread, path):
    assert (
        "0 of 10,000 records (0.00%) move to another shard"
        in spread("feed", "--against", path).stdout
    )


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("send", "queue 'send' is on 'mail', a topic exchange; only an x-consistent-hash exchange"),
        ("mail", "'mail' is a topic exchange; only an x-consistent-hash exchange"),
        ("idle", "no queue is bound to the exchange 'idle'"),
        ("update_fed", "no queue or hash exchange named 'update_fed'; did you mean 'update_feed'?"),
        ("update_feed_1", "'update_feed_1' is a shard; name its queue, 'update_feed'"),
        ("zzz", "expected one of update_feed, audit, send, feed, idle"),
    ],
)
def test_what_has_no_ring_is_refused_with_what_to_ask_for(spread, path, name, reported):
    found = spread(name)
    assert found.exit_code == 1
    assert found.stderr.startswith(f"error: {path}: ")
    assert reported in found.stderr


def test_a_queue_that_the_other_topology_lacks_is_reported_with_its_file(spread, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(TOPOLOGY.format(shards=2).replace("audit", "check"))
    found = spread("audit", "--against", other)
    assert found.exit_code == 1
    assert f"error: {other}: no queue or hash exchange named 'audit'" in found.stderr


@pytest.mark.parametrize(
    ("keys", "reported"),
    [
        ("5..1", "expected A..B with A not larger than B, got '5..1'"),
        ("a..b", "expected A..B in whole numbers, such as 1..10000, got 'a..b'"),
        ("1..", "expected A..B in whole numbers, such as 1..10000, got '1..'"),
        ("1...9", "expected A..B in whole numbers, such as 1..10000, got '1...9'"),
        ("-3..9", "expected A..B in whole numbers, such as 1..10000, got '-3..9'"),
    ],
)
def test_a_bad_range_is_a_usage_error(spread, keys, reported):
    found = spread("feed", f"--keys={keys}")
    assert found.exit_code == 2
    assert reported in found.stderr


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (b"1\n2\n\xff\xfe\n", "keys.txt:3: expected a routing key in UTF-8"),
        (b"1\n" + b"x" * 256, "keys.txt:2: expected a routing key of at most 255 bytes, got 256"),
        (b"\n\n", "keys.txt: expected at least one routing key"),
    ],
)
def test_a_file_that_holds_no_keys_is_reported_by_line(spread, tmp_path, content, reported):
    file = tmp_path / "keys.txt"
    file.write_bytes(content)
    found = spread("feed", "--keys", file)
    assert found.exit_code == 1
    assert found.stderr.startswith("error: ")
    assert reported in found.stderr


def test_a_file_that_cannot_be_read_is_reported(spread, tmp_path):
    found = spread("feed", "--keys", tmp_path / "absent.txt")
    assert found.exit_code == 1
    assert "absent.txt: No such file or directory" in found.stderr
    found = spread("feed", "--keys", tmp_path)
    assert found.exit_code == 1
    assert f"error: cannot read keys from {tmp_path}: Is a directory" in found.stderr


def test_a_key_of_255_bytes_is_placed(spread, tmp_path):
    file = tmp_path / "keys.txt"
    file.write_bytes(b"x" * 255)
    assert json.loads(spread("feed", "--keys", file, "--json").stdout)["records"] == 1
