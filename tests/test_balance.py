"""feedbus balance: weights by keys and traffic, written, and kept by the brokers."""

import json
import sqlite3
from collections import Counter

import psycopg2
import pytest
from click.testing import CliRunner

from feedbus import broker, config
from feedbus.bus import LiveBus
from feedbus.cli import main
from feedbus.config.weight_editing import weighted
from feedbus.generations import topology_setup
from feedbus.generations.queue_depths import depths_of
from feedbus.ring import Ring

TOPOLOGY = """
name = "house"
[broker]
url = "{broker}"
[store]
url = "{store}"
[exchanges]
feed = {{ type = "x-consistent-hash" }}
mail = {{ type = "topic" }}
[queues.update_feed]
exchange = "feed"
shards   = {shards}
weight   = 1        # even, one would think
handler  = "handlers:update_feed"
[queues.send]
exchange = "mail"
routing_keys = ["email"]
handler = "handlers:send"
"""
THOUSAND = [str(number) for number in range(1, 1001)]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "topology.toml"
    urls = {"broker": "sqlite:///broker.db", "store": "sqlite:///store.db"}
    file.write_text(TOPOLOGY.format(shards=10, **urls))
    return file


@pytest.fixture
def balance(path):
    """Return a function that runs the command."""

    def run(*arguments, stdin=None):
        words = ["--topology", str(path), "balance", *map(str, arguments)]
        return CliRunner().invoke(main, words, input=stdin)

    return run


def placed(topology, keys):
    ring = Ring.of(topology.generation("feed").members)
    return Counter(ring.route(key) for key in keys)


def evenness(records, shards):
    return max(records.values()) * shards / records.total()


def test_a_thousand_keys_over_ten_shards_come_to_a_twenty_fifth_of_the_mean(balance, path):
    for keys in (THOUSAND, [f"user-{number * 7919}" for number in range(1000)]):
        found = balance("update_feed", "--keys", "-", "--json", stdin="\n".join(keys))
        report = json.loads(found.stdout)
        before = placed(config.load(path), keys)
        assert report["keys"] == report["records"] == 1000
        assert report["before"]["max_over_mean"] == round(evenness(before, 10), 4) > 1.08
        assert report["after"]["max_over_mean"] <= 1.04
        assert report["after"]["buckets"] <= 200
        weights = {int(shard): weight for shard, weight in report["weights"]["update_feed"].items()}
        after = placed(weighted(config.load(path), {"update_feed": weights}), keys)
        assert {one["name"]: one["records"] for one in report["after"]["shards"]} == after
        assert report["after"]["max_over_mean"] == round(evenness(after, 10), 4)


def test_it_reports_before_and_after_and_what_to_paste(balance, path):
    found = balance("update_feed", "--keys", "1..1000")
    assert "before: max/mean 1.100, 10 buckets in all" in found.stdout
    assert "after:  max/mean 1.020, 117 buckets in all" in found.stdout
    assert "fewer buckets (--target): 1.100 with 10, 1.090 with 28, 1.050 with 39" in found.stdout
    pasted = found.stdout[found.stdout.index("[queues.update_feed]\n") :].split("\n\n")[0]
    table, weights = pasted.splitlines()
    text = path.read_text()
    path.write_text(text.replace("weight   = 1 ", weights))
    after = placed(config.load(path), THOUSAND)
    assert evenness(after, 10) == pytest.approx(1.02)
    assert table in text


def test_written_weights_are_what_the_next_look_finds(balance, path):
    before = path.read_text()
    found = balance("update_feed", "--keys", "1..1000", "--write")
    assert f"the weights were written to {path}; run `feedbus apply`" in found.stdout
    changed = [
        (old, new)
        for old, new in zip(before.splitlines(), path.read_text().splitlines(), strict=True)
        if old != new
    ]
    ((old, new),) = changed
    assert old == "weight   = 1        # even, one would think"
    assert new.startswith("weights  = { 0 = ")
    assert new.endswith("  # even, one would think")
    assert evenness(placed(config.load(path), THOUSAND), 10) == pytest.approx(1.02)

    again = path.read_text()
    found = balance("update_feed", "--keys", "1..1000", "--write")
    assert "weights with at most 200 buckets in all cannot be clearly more even" in found.stdout
    assert path.read_text() == again


def test_weights_that_cannot_be_written_are_printed_with_the_reason(balance, path):
    before = path.read_text()
    path.chmod(0o444)
    found = balance("update_feed", "--keys", "1..1000", "--write")
    assert "weights = { 0 = " in found.stdout
    assert "written to" not in found.stdout
    assert "cannot be written: it is read-only" in found.stderr
    assert path.read_text() == before


def test_spread_against_the_file_from_before_reports_the_same_moves(balance, path, tmp_path):
    before = tmp_path / "before.toml"
    before.write_text(path.read_text())
    report = json.loads(balance("feed", "--keys", "1..1000", "--write", "--json").stdout)
    words = ["--topology", str(path), "spread", "feed", "--keys", "1..1000", "--json"]
    spread = json.loads(CliRunner().invoke(main, [*words, "--against", str(before)]).stdout)
    assert spread["against"]["moved_share"] == report["moved_share"] > 0
    assert spread["shards"] == report["after"]["shards"]
    assert spread["against"]["shards"] == report["before"]["shards"]


def test_all_queues_of_a_ring_get_weights(balance, path):
    audit = '[queues.audit]\nexchange = "feed"\nhandler = "handlers:audit"\n'
    path.write_text(path.read_text() + audit)
    found = balance("audit", "--keys", "1..1100", "--write", "--json")
    report = json.loads(found.stdout)
    assert set(report["weights"]) == {"update_feed", "audit"}
    assert report["written"] is True
    after = placed(config.load(path), map(str, range(1, 1101)))
    assert {one["name"]: one["records"] for one in report["after"]["shards"]} == after
    assert config.load(path).queues["audit"].weights == (report["weights"]["audit"],)


def test_a_target_takes_the_fewest_buckets_that_reach_it(balance):
    report = json.loads(balance("feed", "--keys", "1..1000", "--target", "1.05", "--json").stdout)
    assert (report["after"]["buckets"], report["after"]["max_over_mean"]) == (39, 1.05)
    found = balance("feed", "--keys", "1..1000", "--target", "1.001")
    assert "1.001 cannot be reached: the best is 1.020" in found.stdout
    found = balance("feed", "--keys", "1..1000", "--target", "1.5")
    assert "the current weights already reach max/mean 1.5" in found.stdout


def test_weights_of_more_buckets_than_allowed_stay_when_they_are_more_even(balance, path):
    balance("feed", "--keys", "1..1000", "--write")
    written = path.read_text()
    found = balance("feed", "--keys", "1..1000", "--max-buckets", "10", "--write")
    assert "weights with at most 10 buckets in all cannot be clearly more even" in found.stdout
    assert path.read_text() == written


def test_one_key_with_most_of_the_traffic_is_named(balance, tmp_path):
    file = tmp_path / "keys.tsv"
    lines = [f"{number}\t1" for number in range(100)] + ["hot one\t50.5"]
    file.write_text("\n".join(lines))
    report = json.loads(balance("feed", "--keys", file, "--traffic", 2, "--json").stdout)
    assert report["records"] == 150.5
    assert report["floor"] == report["after"]["max_over_mean"] == round(505 / 150.5, 4)
    assert "the key 'hot one' alone has 33.55% of the records, 3.355 times a shard's mean" in (
        balance("feed", "--keys", file, "--traffic", 2).stdout
    )


@pytest.mark.parametrize("separator", ["\t", ","])
def test_traffic_comes_from_a_column_or_a_file_of_its_own(balance, path, tmp_path, separator):
    traffic = {str(number): number % 7 for number in range(300)}
    keys, table = tmp_path / "keys.txt", tmp_path / "traffic.txt"
    keys.write_text("\n".join([*traffic, "unheard of"]))
    table.write_text("\n".join(separator.join((key, "x", str(n))) for key, n in traffic.items()))
    by_column = balance("feed", "--keys", table, "--traffic", "3", "--json")
    table.write_text("\n".join(separator.join((key, str(n))) for key, n in traffic.items()))
    by_file = balance("feed", "--keys", keys, "--traffic", table, "--json")
    before = placed(config.load(path), Counter(traffic).elements())
    for found in (by_column, by_file):
        report = json.loads(found.stdout)
        assert {one["name"]: one["records"] for one in report["before"]["shards"]} == before
    assert json.loads(by_file.stdout)["keys"] == 301


@pytest.fixture
def filled(path, empty_store_url):
    """Return a topology's file whose store holds readers, and the readers' entries."""
    readers = Counter({number: 1 + number % 5 for number in range(1, 501)})
    path.write_text(TOPOLOGY.format(shards=10, broker="sqlite:///broker.db", store=empty_store_url))
    rows = [(reader,) for reader in readers.elements()]
    if empty_store_url.startswith("sqlite:"):
        store = sqlite3.connect(empty_store_url.removeprefix("sqlite:///"))
        store.execute("CREATE TABLE feed (reader_id integer)")
        store.executemany("INSERT INTO feed VALUES (?)", rows)
    else:
        store = psycopg2.connect(empty_store_url)
        with store.cursor() as cursor:
            cursor.execute("CREATE TABLE feed (reader_id integer)")
            cursor.executemany("INSERT INTO feed VALUES (%s)", rows)
    store.commit()
    store.close()
    return path, readers


@pytest.mark.integration
@pytest.mark.parametrize(
    ("query", "traffic"),
    [
        ("SELECT reader_id FROM feed", ()),
        ("SELECT reader_id, count(*) FROM feed GROUP BY 1", ()),
        ("SELECT reader_id, 'x', count(*) * 1.0 AS n FROM feed GROUP BY 1", ("--traffic", "n")),
        ("SELECT reader_id, 'x', count(*) FROM feed GROUP BY 1", ("--traffic", "3")),
    ],
)
def test_keys_come_from_the_store(balance, filled, query, traffic):
    path, readers = filled
    found = balance("feed", "--query", query, *traffic, "--json")
    report = json.loads(found.stdout)
    before = placed(config.load(path), map(str, readers.elements()))
    assert {one["name"]: one["records"] for one in report["before"]["shards"]} == before
    assert report["after"]["max_over_mean"] < report["before"]["max_over_mean"]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("query", "reported"),
    [
        ("DELETE FROM feed", "query: "),
        ("SELECT reader_id FROM feed WHERE", "query: "),
        ("SELECT 1, reader_id / 0.0 FROM", "query: "),
        ("SELECT reader_id FROM absent", "store "),
        ("SELECT NULL FROM feed", "query: row 1: expected a routing key"),
        ("SELECT reader_id, -1 FROM feed", "query: row 1: expected traffic as a number from 0"),
        ("SELECT reader_id FROM feed WHERE 1 = 0", "--query: expected at least one routing key"),
    ],
)
def test_what_the_store_refuses_is_reported_in_a_line_and_changes_nothing(
    balance, filled, query, reported
):
    _, readers = filled
    found = balance("feed", "--query", query)
    assert found.exit_code == 1
    assert found.stderr.startswith(f"error: {reported}")
    assert found.stderr.count("\n") == 1
    kept = json.loads(balance("feed", "--query", "SELECT reader_id FROM feed", "--json").stdout)
    assert kept["keys"] == readers.total()


def test_a_store_that_is_not_there_is_not_made(balance, path):
    found = balance("feed", "--query", "SELECT 1")
    assert found.exit_code == 1
    assert "there is no such file yet; `feedbus up` creates it" in found.stderr
    assert not (path.parent / "store.db").exists()


@pytest.mark.parametrize(
    ("words", "code", "reported"),
    [
        ((), 2, "expected either --keys or --query"),
        (("--keys", "1..9", "--query", "SELECT 1"), 2, "expected either --keys or --query"),
        (("--keys", "1..9", "--max-buckets", "9"), 1, "expected at least 10, one for each queue"),
        (("--keys", "1..9", "--traffic", "2"), 1, "expected the number of a column of the file"),
        (("--keys", "1..9", "--traffic", "absent.txt"), 1, "absent.txt: No such file or directory"),
    ],
)
def test_what_cannot_be_balanced_is_refused(balance, words, code, reported):
    found = balance("feed", *words)
    assert found.exit_code == code
    assert reported in found.stderr


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        ("a\t1\nb\n", "keys.tsv:2: expected at least 2 columns"),
        ("a\t1\nb\tmany\n", "keys.tsv:2: expected traffic as a number from 0"),
        ("a\t-1\n", "keys.tsv:1: expected traffic as a number from 0"),
        ("a\tnan\n", "keys.tsv:1: expected traffic as a number from 0"),
        ("a\t1e999999999\n", "keys.tsv:1: expected traffic as a number from 0"),
        (
            "a\t0\n",
            "expected a traffic above 0 for at least one key, got 0 for 1 key (--traffic 2)",
        ),
        ("", "keys.tsv: expected at least one routing key"),
    ],
)
def test_traffic_that_is_none_is_reported_by_line(balance, tmp_path, content, reported):
    file = tmp_path / "keys.tsv"
    file.write_text(content)
    found = balance("feed", "--keys", file, "--traffic", "2")
    assert found.exit_code == 1
    assert reported in found.stderr


def published(topology, keys):
    """Publish a record for each key, and return the number of messages in each shard's queue."""
    topology_setup.set_up(topology)
    with LiveBus(topology) as bus:
        bus.publish_many("feed", (({}, key) for key in keys))
    return waiting(topology)


def waiting(topology):
    with broker.connect(topology) as connection:
        depths = depths_of(connection, topology)
    return {name: found.ready for name, found in depths.items() if found.ready}


def test_the_embedded_broker_places_a_thousand_keys_as_predicted(balance, path):
    report = json.loads(balance("feed", "--keys", "1..1000", "--write", "--json").stdout)
    predicted = {one["name"]: one["records"] for one in report["after"]["shards"]}
    assert published(config.load(path), THOUSAND) == predicted


@pytest.mark.integration
def test_rabbitmq_places_a_thousand_keys_as_predicted_and_still_does_after_a_restart(
    balance, path, rabbitmq
):
    urls = {"broker": rabbitmq.url, "store": "sqlite:///store.db"}
    path.write_text(TOPOLOGY.format(shards=12, **urls))
    report = json.loads(balance("feed", "--keys", "1..1000", "--write", "--json").stdout)
    assert report["after"]["max_over_mean"] <= 1.06
    predicted = {one["name"]: one["records"] for one in report["after"]["shards"]}
    topology = config.load(path)
    assert published(topology, THOUSAND) == predicted
    rabbitmq.restart()
    with LiveBus(topology) as bus:
        bus.publish_many("feed", (({}, key) for key in THOUSAND))
    assert waiting(topology) == {name: 2 * records for name, records in predicted.items()}
