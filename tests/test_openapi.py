from __future__ import annotations

import json
import re

import pytest

from feedbus.operations.access_control import Guard
from tests.site import drive_by_schemathesis, fresh_site
from web.openapi import build

MOST = ("--max-examples", "25")


def test_schemathesis_finds_no_fault_in_any_operation(tmp_path):
    with fresh_site(tmp_path) as site:
        reported = drive_by_schemathesis(site.port, tmp_path, *MOST)
    assert "Operations:       7 selected / 7 total" in reported  # all but the document itself
    generated = re.search(r"(\d+) generated, \1 passed", reported)
    assert generated, reported
    assert int(generated[1]) > 300
    assert "API Links:    3 covered" in reported


def test_schemathesis_finds_no_way_around_the_token(tmp_path):
    with fresh_site(tmp_path, Guard(b"s3cret", loopback=False)) as site:
        token = ("-H", "Authorization: Bearer s3cret")
        reported = drive_by_schemathesis(site.port, tmp_path, *MOST, *token, "--phases", "coverage")
    assert re.search(r"(\d+) generated, \1 passed", reported), reported


def test_the_document_asks_for_the_token_where_the_server_does(tmp_path):
    with fresh_site(tmp_path, Guard(b"s3cret")) as site:
        document = site.get("/openapi.json").json
    assert document["security"] == [{"token": []}]
    assert document["paths"]["/healthz"]["get"]["security"] == []


def test_every_route_is_described_and_every_description_is_a_route(tmp_path):
    with fresh_site(tmp_path) as site:
        routes = {(route.method, re.sub(r"<\w+>", "{}", route.rule)) for route in site.app.routes}
        served = site.get("/openapi.json").json
    described = {
        (method.upper(), re.sub(r"\{\w+\}", "{}", path))
        for path, operations in served["paths"].items()
        for method in operations
    }
    assert described == routes


@pytest.mark.parametrize(
    "reference", sorted(set(re.findall(r"#/[\w/]+", json.dumps(build(locked=True)))))
)
def test_every_reference_of_the_document_leads_somewhere(reference):
    found = build(locked=True)
    if reference == "#/id":
        return  # into a response's body
    for part in reference.split("/")[1:]:
        found = found[part]
    assert found
