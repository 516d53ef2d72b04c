from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedbus.urls import (
    Tls,
    UrlError,
    management_of,
    parse_broker_url,
    parse_management_url,
    parse_store_url,
)

PARSERS = {
    "amqp": (parse_broker_url, "amqp://me:{}@host:5672//v"),
    "amqps": (parse_broker_url, "amqp://me:{0}@one//;amqps://me:{0}@two//?ssl_verify=full"),
    "management": (parse_management_url, "https://me:{}@host:15671/path"),
    "store": (parse_store_url, "postgresql://me:{}@host:5432/name"),
    "store's option": (parse_store_url, "postgresql://me@host/name?password={}&sslmode=require"),
}
# Letters that do not follow each other in any error text, and the separators of a URL.
LETTERS = "QXZ7"
ODD = LETTERS + LETTERS + "/?#@:;%&=[]\\+!$'\"{} "


def passwords_of(url: object) -> set[str]:
    if hasattr(url, "nodes"):
        return {node.password for node in url.nodes}
    return {url.parameters["password"]} if hasattr(url, "parameters") else {url.password}


def parts_of(password: str) -> set[str]:
    windows = (password[at : at + 3] for at in range(len(password) - 2))
    return {part for part in windows if sum(sign in LETTERS for sign in part) > 1}


@pytest.mark.parametrize("kind", PARSERS)
@given(password=st.text(ODD, min_size=3, max_size=20))
def test_a_password_as_it_is_parses_right_or_is_refused_and_is_never_repeated(kind, password):
    parse, form = PARSERS[kind]
    try:
        url = parse(form.format(password))
    except UrlError as error:
        reported = f"{error}{error!r}{error.got}{error.__context__!r}"
    else:
        assert passwords_of(url) == {unquote(password)}
        reported = f"{url}{url!r}"
    assert not [part for part in parts_of(password) if part in reported]


@pytest.mark.parametrize("kind", PARSERS)
@given(password=st.text(st.characters(exclude_characters="\0\ufffd", codec="utf-8"), min_size=1))
def test_any_password_can_be_written_with_escapes(kind, password):
    parse, form = PARSERS[kind]
    assert passwords_of(parse(form.format(quote(password, safe="")))) == {password}


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_broker_url, "amqp://guest:5/abcSecret@HOST//"),
        (parse_broker_url, "amqp://guest:5?Secret=1@HOST//"),
        (parse_broker_url, "amqp://guest:Secret"),
        (parse_broker_url, "amqp://guest:a%Secret@h"),
        (parse_broker_url, "amqp://guest:a%ffSecret@h"),
        (parse_broker_url, "amqp://guest:a%00Secret@h"),
        (parse_broker_url, "amqp://guest:Secret@x@h"),
        (parse_broker_url, "amqp://guest:x@h/Secret@host"),
        (parse_broker_url, "guest:Secret://amqp@h"),
        (parse_broker_url, "Secret"),
        (parse_management_url, "http://u:Secret/@h"),
        (parse_store_url, "host=h password=Secret"),
        (parse_store_url, "postgresql://u:5/Secret@h/db"),
        (parse_store_url, "postgresql://u:5?a=Secret@h/db"),
        (parse_store_url, "postgresql://u:x@h/db?Secret"),
        (parse_store_url, "postgresql://u:Secret"),
        (parse_store_url, "postgresql://u:x@h:Secret/db"),
        (parse_store_url, "sqlite://u:Secret@h"),
    ],
)
def test_a_url_that_could_be_read_otherwise_is_refused_without_repeating_it(parse, text):
    with pytest.raises(UrlError) as caught:
        parse(text)
    assert "Secret" not in str(caught.value)


def test_each_part_of_a_node_is_decoded_once():
    url = parse_broker_url("amqp://u%40x:a;b%3Bc@h//v?heartbeat=7")
    (node,) = url.nodes
    assert (node.user, node.password, node.virtual_host) == ("u@x", "a;b;c", "/v")
    assert (node.host, node.port, node.heartbeat_seconds, node.tls) == ("h", 5672, 7.0, None)
    assert str(url) == "amqp://u%40x:***@h//v"


def test_without_user_and_host_a_broker_is_the_guest_of_this_machine():
    (node,) = parse_broker_url("amqp://").nodes
    assert (node.user, node.password, node.host, node.virtual_host) == (
        *("guest", "guest"),
        *("localhost", "/"),
    )


def test_relative_files_are_seen_from_the_folder_of_the_topology():
    options = "ssl_ca_certs=ca%2B.pem&ssl_certfile=/etc/c.pem&ssl_keyfile=k/key.pem"
    (node,) = parse_broker_url(f"amqps://h?{options}").within(Path("/at")).nodes
    assert node.tls == Tls(Path("/at/ca+.pem"), Path("/etc/c.pem"), Path("/at/k/key.pem"))
    assert node.port == 5671
    assert parse_broker_url("sqlite:///b.db").within(Path("/at")).file == Path("/at/b.db")
    assert str(parse_store_url("sqlite:////s.db").within(Path("/at"))) == "sqlite:////s.db"


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("amqp://h?ssl_ca_certs=x", "expected amqps:// for ssl_ca_certs"),
        ("amqps://h?ssl_verify=no", "ssl_verify=full or ssl_verify=none"),
        ("amqps://h?ssl_keyfile=x", "both ssl_certfile and ssl_keyfile"),
        ("amqps://h?ssl_ca_certs=", "a value for ssl_ca_certs"),
        ("amqps://h?ssl_ca_certs=a&ssl_ca_certs=b", "ssl_ca_certs once"),
        ("amqps://h?ssl_cert_reqs=x", "got 'ssl_cert_reqs'"),
        ("amqp://h:0", "a port from 1 to 65535"),
        ("amqp://h:123456", "a port from 1 to 65535"),
        ("amqp://h h", "without spaces"),
        ("amqp://h\u202e", "without spaces and control characters"),
        ("amqp://[::1", "the name or the address of one host"),
        ("amqp://a,b", "the name or the address of one host"),
    ],
)
def test_what_a_brokers_url_cannot_say_is_refused(text, reported):
    with pytest.raises(UrlError, match="expected") as caught:
        parse_broker_url(text)
    assert reported in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u@h:1,h:2/db?target_session_attrs=read-write",
        "postgres:///db?host=/var/run/postgresql&user=me@there&passfile=/p",
        "postgresql://?service=mine",
        "postgresql://[::1]:5433/db?sslmode=verify-full&sslrootcert=system",
        "postgresql://u:p%40@/db?application_name=a@b",
    ],
)
def test_a_store_may_be_whatever_libpq_takes(text):
    url = parse_store_url(text)
    assert url.reveal() == text
    assert not url.embedded


def test_a_broker_by_tls_is_asked_by_tls_with_the_same_certificates():
    broker = parse_broker_url("amqps://u:p@h//?ssl_ca_certs=/ca&ssl_certfile=/c&ssl_verify=none")
    ((derived, _),) = management_of(broker, None)
    assert str(derived) == "https://h:15671"
    assert derived.tls == broker.nodes[0].tls
    given = parse_management_url("https://other/api-of-it")
    ((asked, _),) = management_of(broker, given)
    assert (asked.user, asked.password) == ("u", "p")
    # For another host, ssl_server_name and ssl_verify are not taken from the broker's URL.
    assert asked.tls == Tls(Path("/ca"), Path("/c"))
    own = parse_management_url("https://x:y@other?ssl_certfile=/own&ssl_server_name=n")
    ((asked, _),) = management_of(broker, own)
    assert (asked.user, asked.password) == ("x", "y")
    assert asked.tls == Tls(Path("/ca"), Path("/own"), None, "n")


@pytest.mark.parametrize(
    ("text", "away"),
    [
        ("http://h:15672", True),
        ("http://127.0.0.9", False),
        ("http://[::1]", False),
        ("http://localhost", False),
        ("https://h", False),
    ],
)
def test_a_password_leaves_the_machine_in_clear_text_by_http_to_others(text, away):
    assert parse_management_url(text).clear_text_to_others() == away
