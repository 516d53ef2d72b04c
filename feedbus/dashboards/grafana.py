"""The dashboard of a topology in Grafana's JSON."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from feedbus.dashboards.panels import Panel, rows
from feedbus.topology import Topology

WIDTH = 24
SCHEMA_VERSION = 39
UID_LENGTH = 40
UID = re.compile(rf"[A-Za-z0-9_-]{{1,{UID_LENGTH}}}")
DIGEST_LENGTH = 12
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard(topology: Topology) -> dict[str, Any]:
    """Return a dashboard in Grafana's JSON; the same for the same topology."""
    drawn: list[dict[str, Any]] = []
    top = 0
    for title, panels in rows(topology):
        drawn.append(_row(title, top) | {"id": len(drawn) + 1})
        top += 1
        left = height = 0
        for panel in panels:
            if left + panel.width > WIDTH:
                left, top = 0, top + height
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            drawn.append(_panel(panel) | {"id": len(drawn) + 1, "gridPos": place})
            left, height = left + panel.width, panel.height
        top += height
    return {
        "uid": dashboard_uid(topology.name),
        "title": topology.name,
        "description": "Made by `feedbus grafana` from the topology; change it there.",
        "tags": ["feedbus"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_datasource(), _job()]},
        "panels": drawn,
    }


def dashboard_uid(name: str) -> str:
    """Return the dashboard's uid for a topology of that name.

    Grafana takes at most 40 letters, digits, '-' and '_'. A name that does not fit is cut and
    made plain, and a digest of the whole name keeps it apart from others.
    """
    uid = f"feedbus-{name}"
    if UID.fullmatch(uid):
        return uid
    digest = hashlib.sha256(name.encode()).hexdigest()[:DIGEST_LENGTH]
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", uid)
    return f"{plain[: UID_LENGTH - DIGEST_LENGTH - 1]}-{digest}"


def _datasource() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }


def _job() -> dict[str, Any]:
    query = "label_values(feedbus_metric_files_unreadable, job)"
    return {
        "name": "job",
        "label": "Job",
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "job"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _row(title: str, top: int) -> dict[str, Any]:
    place = {"x": 0, "y": top, "w": WIDTH, "h": 1}
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": place}


def _panel(panel: Panel) -> dict[str, Any]:
    instant = panel.kind != "timeseries"
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.kind == "timeseries":
        defaults["custom"] = {"fillOpacity": 10, "showPoints": "never"}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": SOURCE,
        "targets": [
            {
                "refId": _letters(number),
                "datasource": SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "instant": instant,
                "range": not instant,
            }
            for number, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel.kind),
    }


def _options(kind: str) -> dict[str, Any]:
    if kind == "timeseries":
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    last = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if kind == "bargauge":
        return {"orientation": "horizontal", "displayMode": "gradient", "reduceOptions": last}
    return {"colorMode": "value", "graphMode": "none", "reduceOptions": last}


def _letters(number: int) -> str:
    """Name a query as Grafana does: A to Z, then AA, AB."""
    before, last = divmod(number, 26)
    return (_letters(before - 1) if before else "") + chr(ord("A") + last)
