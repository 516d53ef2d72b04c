"""Broker and management API over TLS: both verify certificate and name by default."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from urllib.parse import urlencode

import pytest

from feedbus import broker
from feedbus.broker import inventory
from feedbus.broker.rabbitmq import management
from feedbus.errors import Outage, UsageError
from feedbus.store.peewee import close_bound
from feedbus.topology import StoreOptions, Topology
from feedbus.urls import parse_broker_url, parse_management_url, parse_store_url
from servers.certificates import Authority
from servers.ports import free_port
from servers.rabbitmq import RabbitMQ
from tests import required_servers as required
from tests.background_heartbeats import exchange_messages, stays_open
from tests.projects import Project

pytestmark = pytest.mark.integration

CONFIG = """
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.cacertfile = {authority}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
management.ssl.ip = 127.0.0.1
management.ssl.port = {management_port}
management.ssl.cacertfile = {authority}
management.ssl.certfile = {certificate}
management.ssl.keyfile = {key}
management.ssl.verify = verify_peer
management.ssl.fail_if_no_peer_cert = true
"""


class TlsNode:
    """A node that requires a client certificate; its own certificate is only for "localhost"."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority.at(folder / "ours")
        self.stranger = Authority.at(folder / "theirs")
        certificate, key = self.authority.sign("localhost")
        self.port, self.management_port = free_port(), free_port()
        config = CONFIG.format(
            port=self.port,
            management_port=self.management_port,
            authority=self.authority.certificates,
            certificate=certificate,
            key=key,
        )
        client, client_key = self.authority.sign("client")
        self.options = {
            "ssl_ca_certs": self.authority.certificates,
            "ssl_certfile": client,
            "ssl_keyfile": client_key,
        }
        (folder / "node").mkdir()
        self.node = RabbitMQ(folder / "node", config=config, version=required.rabbitmq())

    def urls(self, host: str, **options: object) -> tuple[str, str]:
        """Return the URL of the broker and that of its management API; None drops an option."""
        kept = {
            name: value for name, value in (self.options | options).items() if value is not None
        }
        query = urlencode(kept, safe="/")
        return (
            f"amqps://guest:guest@{host}:{self.port}//?{query}",
            f"https://{host}:{self.management_port}?{query}",
        )


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    found = TlsNode(tmp_path_factory.mktemp("tls"))
    with found.node:
        yield found


def topology(folder: Path, urls: tuple[str, str]) -> Topology:
    url, management_url = urls
    return Topology(
        name="tls",
        path=folder / "topology.toml",
        broker_url=parse_broker_url(url),
        store=StoreOptions(url=parse_store_url(f"sqlite:///{folder}/store.db")),
        exchanges={},
        queues={},
        management_url=parse_management_url(management_url),
    )


def refusals(given: Topology) -> tuple[str, str]:
    """Return the reasons why the broker and its management API are refused."""
    with pytest.raises(Outage) as by_broker:
        broker.connect(given)
    with pytest.raises(UsageError) as by_management:
        management.listed(given.broker_url, given.management_url, "queues")
    return str(by_broker.value), str(by_management.value)


@pytest.mark.parametrize(
    ("host", "options"),
    [("localhost", {}), ("127.0.0.1", {"ssl_server_name": "localhost"})],
)
def test_a_server_is_spoken_to_whose_certificate_and_name_are_right(tls, tmp_path, host, options):
    given = topology(tmp_path, tls.urls(host, **options))
    broker.connect(given).release()
    assert inventory.read_inventory(given).queues == {}


def test_a_thread_sends_heartbeats_while_its_connection_is_in_use_or_not(
    tls, tmp_path, monkeypatch
):
    url, management_url = tls.urls("localhost")
    given = topology(tmp_path, (f"{url}&heartbeat=1", management_url))
    stays_open(given, seconds=4.0)
    exchange_messages(given, monkeypatch)


@pytest.mark.parametrize(
    ("host", "options", "reported"),
    [
        ("127.0.0.1", {}, "IP address mismatch"),
        ("localhost", {"ssl_server_name": "other"}, "Hostname mismatch"),
        ("localhost", {"ssl_ca_certs": "theirs"}, "certificate"),
        ("localhost", {"ssl_ca_certs": None}, "certificate"),
    ],
    ids=["another host", "another name", "another authority", "the system's authorities"],
)
def test_a_server_that_cannot_show_who_it_is_gets_no_password(
    tls, tmp_path, host, options, reported
):
    if options.get("ssl_ca_certs") == "theirs":
        options = {"ssl_ca_certs": tls.stranger.certificates}
    for refusal in refusals(topology(tmp_path, tls.urls(host, **options))):
        assert "its TLS certificate cannot be verified" in refusal
        assert reported in refusal


def test_the_broker_refuses_a_client_without_its_certificate(tls, tmp_path):
    without = {"ssl_certfile": None, "ssl_keyfile": None}
    for refusal in refusals(topology(tmp_path, tls.urls("localhost", **without))):
        assert (
            "its TLS certificate cannot be verified" not in refusal
        )  # the other side refuses ours


def test_verification_ends_only_by_an_option_which_is_logged(tls, tmp_path, caplog):
    off = {"ssl_verify": "none", "ssl_ca_certs": None}
    given = topology(tmp_path, tls.urls("127.0.0.1", **off))
    with caplog.at_level(logging.WARNING, "feedbus.broker"):
        broker.connect(given).release()
        broker.connect(given).release()
        assert inventory.read_inventory(given).queues == {}
    logged = [record.getMessage() for record in caplog.records]
    assert [line.split(" ")[0] for line in logged] == ["event=tls_not_verified"] * 2
    assert "amqps://guest:***@127.0.0.1" in logged[0]
    assert "https://127.0.0.1" in logged[1]


@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_a_file_of_certificates_that_is_missing_is_named(tls, tmp_path, name):
    for refusal in refusals(topology(tmp_path, tls.urls("localhost", **{name: "/no/such.pem"}))):
        assert ": /no/such.pem cannot be used for TLS: No such file" in refusal


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(tls, tmp_path):
    certificate, key = tls.authority.sign("client", passphrase="hunter2")
    options = {"ssl_certfile": certificate, "ssl_keyfile": key}
    for refusal in refusals(topology(tmp_path, tls.urls("localhost", **options))):
        assert "the key has a passphrase" in refusal


def test_every_command_speaks_tls(tls, tmp_path):
    project = Project.at(tmp_path, "note(n)\nif n == 2:\n    raise Reject('no')")
    url, management = tls.urls("localhost")
    text = project.topology.read_text()
    broker_table = f'url = "{url}"\nmanagement = "{management.partition("?")[0]}"'
    project.topology.write_text(text.replace('url = "sqlite:///var/broker.db"', broker_table))
    project.feedbus("check")
    project.feedbus("apply", "--yes")
    assert "nothing to change" in project.feedbus("plan").stdout.lower()
    project.publish(1, 2)
    project.feedbus("run", "work", "--idle-timeout", "1s")
    assert project.seen() == ["1", "2"]
    assert json.loads(project.feedbus("status", "--json").stdout)["broker"]["reachable"]
    assert len(project.dead()) == 1
    project.feedbus("dead", "requeue", "work", "--all")
    close_bound()
