"""Metrics: the counted events, and how Prometheus reads them."""

import math
import shutil
import subprocess
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from feedbus.metrics import Metrics, Settled, exposition, settled, totals
from tests.counting import finish, samples, start
from tests.required_servers import PROMETHEUS, missing

GAUGES = {"feedbus_queue_messages": {"update_feed_3": 12}, "feedbus_dead_letters": {"x": 0}}


def test_threads_of_one_process_lose_no_count():
    metrics = Metrics.none()

    def work():
        for _ in range(5_000):
            metrics.published("work", "confirmed")
            metrics.consumer("x").lag(0.001)
            metrics.consumer("x").redelivered()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.value("feedbus_published_total", "work", "confirmed") == 20_000
    assert metrics.value("feedbus_lag_seconds", "x") == 20_000
    assert metrics.value("feedbus_redeliveries_total", "x") == 20_000


def everything(directory):
    with Metrics.open(directory, "all") as metrics:
        consumer = metrics.consumer('send_notification."email"\\\n')
        consumer.settled("retry", 2, 20)
        consumer.handled(0.2, 20)
        consumer.lag(3, 2)
        consumer.misplaced()
        consumer.redelivered(4)
        consumer.outage("store")
        consumer.held("store", 1.5)
        metrics.published("update_feed", "returned", 3)


def test_names_types_and_units_keep_to_prometheus_conventions(tmp_path):
    everything(tmp_path)
    families = list(text_string_to_metric_families(exposition(tmp_path, GAUGES).decode()))
    assert len(families) == 19
    for family in families:
        assert family.documentation.endswith(".")
        assert family.type in {"counter", "histogram", "gauge"}
        assert family.name.startswith("feedbus_")
        assert not family.name.endswith("_total")  # the parser took it off the counters
        assert ("seconds" in family.name) or not family.name.endswith(("_ms", "_time"))
        if family.type == "counter":
            assert all(sample.name == f"{family.name}_total" for sample in family.samples)
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    known = {"consumer", "verdict", "part", "exchange", "outcome"}
    assert labels == known | {"limit", "queue", "le"}


def test_promtool_finds_no_fault_with_the_exposition(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        missing(PROMETHEUS)
    everything(tmp_path)
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=exposition(tmp_path, GAUGES),
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_every_series_of_a_consumer_is_there_at_0_from_the_start(tmp_path):
    with Metrics.open(tmp_path, "x") as metrics:
        metrics.consumer("x")
        metrics.published("update_feed", "confirmed", 0)
    found = samples(tmp_path)
    assert set(found.values()) == {0.0}
    verdicts = {"ack", "reject", "retry", "dead_letter", "invalid", "drop"}
    assert {key[1] for key in found if key[0] == "feedbus_records_total"} == verdicts
    outcomes = {"confirmed", "returned", "nacked", "unconfirmed"}
    assert {key[1] for key in found if key[0] == "feedbus_published_total"} == outcomes
    assert found["feedbus_lag_seconds_count", "x"] == 0


def test_a_histogram_counts_an_observation_in_every_bucket_that_it_fits(tmp_path):
    with Metrics.open(tmp_path, "x") as metrics:
        consumer = metrics.consumer("x")
        consumer.handled(0.1, 1000)
        consumer.handled(0.11, 1001)
        consumer.handled(1e6, 1)
    found = samples(tmp_path)
    assert found["feedbus_handling_seconds_bucket", "0.05", "x"] == 0
    assert found["feedbus_handling_seconds_bucket", "0.1", "x"] == 1
    assert found["feedbus_handling_seconds_bucket", "0.25", "x"] == 2
    assert found["feedbus_handling_seconds_bucket", "300.0", "x"] == 2
    assert found["feedbus_handling_seconds_bucket", "+Inf", "x"] == 3
    assert found["feedbus_handling_seconds_count", "x"] == 3
    assert found["feedbus_handling_seconds_sum", "x"] == pytest.approx(1e6 + 0.21)
    assert found["feedbus_batch_records_bucket", "1000.0", "x"] == 2
    assert found["feedbus_batch_records_sum", "x"] == 2002


@pytest.mark.parametrize("seconds", [-5.0, math.nan, -math.inf])
def test_a_lag_that_clocks_make_impossible_counts_as_none(tmp_path, seconds):
    with Metrics.open(tmp_path, "x") as metrics:
        metrics.consumer("x").lag(seconds)
    found = samples(tmp_path)
    assert found["feedbus_lag_seconds_sum", "x"] == 0
    assert found["feedbus_lag_seconds_count", "x"] == 1


def test_a_lag_without_end_spoils_no_sum(tmp_path):
    with Metrics.open(tmp_path, "x") as metrics:
        metrics.consumer("x").lag(math.inf)
    found = samples(tmp_path)
    assert math.isfinite(found["feedbus_lag_seconds_sum", "x"])
    assert found["feedbus_metric_files_unreadable",] == 0


def test_live_gauges_are_what_the_caller_says(tmp_path):
    assert samples(tmp_path, GAUGES)["feedbus_queue_messages", "update_feed_3"] == 12
    with pytest.raises(KeyError, match="feedbus_queue_lenght"):
        exposition(tmp_path, {"feedbus_queue_lenght": {"x": 1}})


def test_no_folder_yet_is_no_metrics(tmp_path):
    assert samples(tmp_path / "none") == {("feedbus_metric_files_unreadable",): 0}
    assert totals(tmp_path / "none") == {}


def test_totals_are_records_by_consumer_and_verdict_over_all_processes(tmp_path):
    for slot in range(2):
        with Metrics.open(tmp_path, f"x.{slot}") as metrics:
            metrics.consumer("x").settled("ack", 1, 100)
            metrics.consumer("x").settled("reject", 1, slot)
    found = totals(tmp_path)
    assert list(found) == ["x"]
    assert {verdict: count for verdict, count in found["x"].items() if count} == {
        "ack": 200,
        "reject": 1,
    }


def test_settled_records_and_lag_are_by_consumer_over_all_processes(tmp_path):
    for slot in range(2):
        with Metrics.open(tmp_path, f"x.{slot}") as metrics:
            metrics.consumer("x").settled("ack", 1, 100)
            metrics.consumer("x").settled("reject", 1, slot)
            metrics.consumer("x").lag(1.5)
    assert settled(tmp_path) == {"x": Settled(201, 3.0, 2)}
    assert settled(tmp_path / "none") == {}


def test_a_process_that_only_counts_does_not_load_prometheus_client(tmp_path):
    source = 'Metrics.open(directory, "x"); print("prometheus_client" in sys.modules)'
    assert finish(start(source, tmp_path)) == "False\n"
