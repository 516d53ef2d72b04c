"""feedbus grafana: the dashboard is the topology's."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from feedbus import config
from feedbus.cli import main
from feedbus.dashboards.grafana import dashboard_uid
from feedbus.dashboards.panels import rows
from feedbus.metrics import catalogue
from servers import prometheus as monitoring
from tests.required_servers import PROMETHEUS, missing

PROJECT = Path(__file__).parent.parent

TOPOLOGY = """
name = "mail"
[broker]
url = "sqlite:///var/broker.db"
[store]
url = "sqlite:///var/store.db"
[exchanges]
letters = { type = "x-consistent-hash" }
notes = { type = "direct" }
[queues."sort.v2"]
exchange = "letters"
shards = 3
weights = { 1 = 5 }
handler = "h:h"
[queues.note]
exchange = "notes"
routing_keys = [""]
handler = "h:h"
[schedules.nightly]
cron = "30 2 * * *"
exchange = "notes"
"""


@pytest.fixture
def topology(tmp_path):
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    return tmp_path / "topology.toml"


def printed(path: Path) -> dict:
    result = CliRunner().invoke(main, ["--topology", str(path), "grafana"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def questions(dashboard: dict) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def test_the_provisioned_dashboard_is_current():
    shipped = json.loads((PROJECT / "deploy/grafana/dashboards/feedbus.json").read_text())
    assert shipped == printed(PROJECT / "topology.toml"), (
        "feedbus grafana > deploy/grafana/dashboards/feedbus.json"
    )


def test_every_metric_is_shown(topology):
    known = {*catalogue.RECORDED, *catalogue.GAUGES}
    asked = " ".join(questions(printed(topology)))
    # Deliveries are counted in messages; the output shows the records in them.
    assert {name for name in known if name not in asked} == {"feedbus_deliveries_total"}


def test_each_consumer_and_no_other_is_asked_for(topology):
    first = questions(printed(topology))[0]
    assert 'consumer=~"sort\\\\.v2_(0|1|2)|note"' in first


def test_a_sharded_queue_has_its_own_row_and_others_have_none(topology):
    titles = [panel["title"] for panel in printed(topology)["panels"] if panel["type"] == "row"]
    assert [title for title in titles if title.startswith("Shards")] == ["Shards of sort.v2"]


def test_the_spread_considers_weights(topology):
    (fair,) = [
        target["expr"]
        for panel in printed(topology)["panels"]
        if panel["title"] == "sort.v2: busiest shard / mean"
        for target in panel["targets"]
    ]
    assert 'sort\\\\.v2_(0|2)",job=~"$job"}[$__range])) / 1 or ' in fair
    assert 'sort\\\\.v2_(1)",job=~"$job"}[$__range])) / 5)' in fair


def test_panels_neither_overlap_nor_leave_the_page(topology):
    dashboard = printed(topology)
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not taken & cells, panel["title"]
        taken |= cells
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(identifiers)) == len(identifiers)


def test_many_queues_give_each_question_a_letter_of_its_own(tmp_path):
    extra = "".join(
        f'[queues.q{number}]\nexchange = "notes"\nrouting_keys = ["{number}"]\nhandler = "h:h"\n'
        for number in range(60)
    )
    path = tmp_path / "topology.toml"
    path.write_text(TOPOLOGY + extra)
    for panel in printed(path)["panels"]:
        letters = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(letters)) == len(letters)


def test_prometheus_can_read_every_question(topology, tmp_path):
    if not monitoring.is_installed():
        missing(PROMETHEUS)
    asked = [
        query.expr.replace("$__rate_interval", "1m").replace("$__range", "1h")
        for _, panels in rows(config.load(topology))
        for panel in panels
        for query in panel.queries
    ]
    written = {
        "groups": [
            {"name": "asked", "rules": [{"record": "r", "expr": expr} for expr in set(asked)]}
        ]
    }
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(written))
    done = subprocess.run(
        ["promtool", "check", "rules", "--lint=none", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_uid_of_a_dashboard_is_one_that_grafana_takes_and_no_others():
    long = "a-name-of-thirty-two-characters-"
    names = ["shop", "shop.eu", "shop-eu", "shop_eu", f"{long}one", f"{long}two", long, "x" * 200]
    uids = [dashboard_uid(name) for name in names]
    assert len(set(uids)) == len(names)
    assert all(re.fullmatch("[A-Za-z0-9_-]{1,40}", uid) for uid in uids)
    assert uids[0] == "feedbus-shop"
