"""A private Prometheus with the shipped files, but other targets, token and intervals."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import yaml

from servers.compose import PROJECT, Compose
from servers.owned import OwnedProcess
from servers.ports import free_port

SHIPPED = PROJECT / "deploy/prometheus"
START_SECONDS = 300  # only ends what never starts; a busy machine takes minutes
STOP_SECONDS = 30
INTERVAL = "500ms"


def is_installed() -> bool:
    """Return whether there is a Prometheus to start."""
    return all(map(shutil.which, ("prometheus", "promtool")))


class Prometheus:
    """One server. `with Prometheus(folder, targets, token) as server:` starts it and ends it.

    Args:
        folder: an empty folder for all that it reads and writes.
        targets: the address to scrape for each job; jobs without one are left out.
        token: what it shows where the shipped configuration says so.

    """

    def __init__(self, folder: Path, targets: Mapping[str, str], token: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: OwnedProcess | None = None
        (folder / "token").write_text(token)
        for rules in SHIPPED.glob("*.yml"):
            shutil.copy(rules, folder)
        config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
        config["global"] |= {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
        config["scrape_configs"] = [
            _moved(job, targets[job["job_name"]], folder / "token")
            for job in config["scrape_configs"]
            if job["job_name"] in targets
        ]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def start(self) -> None:
        """Start it with Compose's own words, and wait until it answers."""
        words = [
            word.replace("=/etc/prometheus/", f"={self.folder}/").replace(
                "=/prometheus", f"={self.folder}/storage"
            )
            for word in Compose.read({"FEEDBUS_API_TOKEN": "unused"}).command("prometheus")
        ]
        listening = f"--web.listen-address=127.0.0.1:{self.port}"
        with (self.folder / "log").open("ab") as log:
            self._process = OwnedProcess(
                ["prometheus", *words, listening], cwd=self.folder, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError((self.folder / "log").read_text()[-3000:])
            time.sleep(0.1)

    def is_ready(self) -> bool:
        """Ask as Compose's health check does."""
        url = Compose.read({"FEEDBUS_API_TOKEN": "unused"}).health("prometheus")[-1]
        try:
            with urllib.request.urlopen(url.replace("9090", str(self.port)), timeout=5) as answer:
                return answer.status == HTTPStatus.OK
        except OSError:
            return False

    def get(self, path: str, **fields: str) -> Any:
        """Ask the HTTP API and return the answer's data."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(fields)}"
        try:
            with urllib.request.urlopen(url, timeout=START_SECONDS) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            msg = f"{fields}: {error.read().decode()}"
            raise AssertionError(msg) from error
        return found["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the series that a question has as its answer now."""
        return list(self.get("query", query=expr)["result"])

    def values(self, expr: str, label: str) -> dict[str, float]:
        """Return a question's values by one label."""
        return {one["metric"].get(label, ""): float(one["value"][1]) for one in self.query(expr)}

    def value(self, expr: str) -> float | None:
        """Return a question's only value, None when there is none."""
        found = self.query(expr)
        return float(found[0]["value"][1]) if found else None

    def close(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(STOP_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _moved(job: dict[str, Any], target: str, token: Path) -> dict[str, Any]:
    job["static_configs"] = [{"targets": [target]}]
    if "authorization" in job:
        job["authorization"]["credentials_file"] = str(token)
    return job
