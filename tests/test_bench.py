"""Check that every measurement runs, and computes each figure of the table."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.figures import FIGURES, chosen
from bench.runs import RUNS
from servers.postgres import MissingServer, binary
from tests import required_servers as required
from tests.required_servers import missing

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parent.parent


def require_servers() -> None:
    try:
        binary("postgres")
    except MissingServer as error:
        missing(str(error))
    required.rabbitmq()


# `make bench-short` runs every measurement; `make test` one of each kind.
LONG = bool(os.environ.get("FEEDBUS_LONG_BENCH"))
MEASURED = () if LONG else ("share", "latency", "start")


@pytest.mark.integration
def test_the_short_form_runs_measurements_and_every_figure_of_them_comes_out():
    require_servers()
    only = [word for name in MEASURED for word in ("--only", name)]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--short", "--json", *only],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reported = json.loads(done.stdout)
    figures = chosen(MEASURED)
    assert [figure["text"] for figure in reported["figures"]] == [each.text for each in figures]
    assert all(math.isfinite(figure["median"]) for figure in reported["figures"])
    (results,) = reported["rounds"]
    assert set(results) == {run for each in figures for run in each.runs}


def test_every_run_serves_a_figure_and_every_figure_names_runs_that_there_are():
    assert {run for figure in chosen(()) for run in figure.runs} == set(RUNS)
    assert {figure.name for figure in FIGURES} == {figure.name for figure in chosen(())}


@pytest.mark.parametrize(
    ("lower", "value", "reported"),
    [
        (False, 0.7, "aim"),
        (False, 0.5, "must"),
        (False, 0.4, "no"),
        (True, 0.4, "aim"),
        (True, 0.5, "must"),
        (True, 0.7, "no"),
    ],
)
def test_a_figure_reports_whether_it_reaches_what_must_be_or_the_aim(lower, value, reported):
    must, aim = (0.6, 0.45) if lower else (0.45, 0.6)
    figure = FIGURES[0].__class__("f", "f", must, aim, "{}", (), lambda _: 0.0, lower)
    assert figure.met(value) == reported
