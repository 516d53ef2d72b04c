from __future__ import annotations

from collections.abc import Iterator

import pytest

from feedbus.operations.access_control import Guard
from tests.site import Site, fresh_site, problem


@pytest.fixture(scope="module")
def locked(tmp_path_factory) -> Iterator[Site]:
    guard = Guard(b"s3cret-\xc3\xa9", loopback=False)
    with fresh_site(tmp_path_factory.mktemp("locked"), guard) as served_site:
        yield served_site


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer wrong", "Basic s3cret-", "Bearer s3cret-", "\u00fc \u00ff"],
)
def test_without_the_token_nothing_is_answered(locked, header):
    headers = {} if header is None else {"Authorization": header}
    for method, path in (
        ("GET", "/api/v1/get-tweets"),
        ("POST", "/api/v2/user"),
        ("GET", "/metrics"),
    ):
        answer = locked.call(method, path, headers=headers)
        problem(answer, 401)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_with_the_token_any_host_is_answered(locked):
    for scheme in ("Bearer", "bearer"):
        headers = {"Authorization": f"{scheme} s3cret-\u00c3\u00a9", "Host": "feeds.example"}
        assert locked.call("GET", "/api/v1/get-tweets", headers=headers).status == 200
        assert locked.call("GET", "/metrics", headers=headers).status == 200


def test_health_and_the_description_need_no_token(locked):
    for path in ("/healthz", "/openapi.json"):
        assert locked.get(path).status == 200


def test_on_loopback_metrics_need_no_token(tmp_path):
    with fresh_site(tmp_path, Guard(b"s3cret", loopback=True)) as own:
        assert own.get("/metrics").status == 200
        problem(own.get("/api/v1/get-tweets"), 401)
