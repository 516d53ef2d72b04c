from __future__ import annotations

import http.client
import io
import json
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from handlers.schemas import AddFollowers
from tests.projects import PATIENCE_SECONDS, wait_until
from tests.site import Answer, Site, fresh_site, problem
from web.bodies import read_bytes


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    with fresh_site(tmp_path_factory.mktemp("site")) as served_site:
        yield served_site


def raw(site: Site, request: bytes) -> bytes:
    """Send bytes as they are and return all that comes back."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_a_user_is_created_and_its_login_cannot_be_taken_again(site):
    first = site.post("/api/v2/user", {"login": "ann", "email": "ann@example.org"})
    assert first.status == 201
    assert first.json["id"] > 0
    again = site.post("/api/v2/user", {"login": "ann", "phone": "491234"})
    assert "login" in problem(again, 409)["errors"]


def test_a_user_may_have_a_phone_alone(site):
    assert site.post("/api/v2/user", {"login": "phoned", "phone": "+4930123456"}).status == 201


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"email": "a@example.org"}, "login"),
        ({"login": "nobody"}, "email"),
        ({"login": "", "email": "a@example.org"}, "login"),
        ({"login": "two words", "email": "a@example.org"}, "login"),
        ({"login": "line\n", "email": "a@example.org"}, "login"),
        ({"login": "a" * 65, "email": "a@example.org"}, "login"),
        ({"login": "a\0b", "email": "a@example.org"}, "login"),
        ({"login": 7, "email": "a@example.org"}, "login"),
        ({"login": None, "email": "a@example.org"}, "login"),
        ({"login": "a", "email": "no address"}, "email"),
        ({"login": "a", "email": "a@" + "b" * 127}, "email"),
        ({"login": "a", "phone": "123456789012"}, "phone"),
        ({"login": "a", "phone": "call me"}, "phone"),
        ({"login": "a", "email": "a@example.org", "colour": "red"}, "colour"),
    ],
)
def test_a_wrong_user_is_refused_with_the_field_named(site, fields, field):
    assert field in problem(site.post("/api/v2/user", fields), 400)["errors"]


def test_followers_are_created_in_the_request_and_counted(site):
    author = site.user("followed")
    fields = {"userId": author, "followerLogin": "fan", "count": 7, "async": False}
    answer = site.post("/api/v1/add-followers", fields)
    assert (answer.status, answer.json) == (200, {"created": 7})


@pytest.mark.parametrize("count", [0, -1, 1_000_000, "many", 1.5, True, None, 10**40])
def test_a_wrong_count_of_followers_is_refused(site, count):
    fields = {"userId": 1, "followerLogin": "fan", "count": count}
    assert "count" in problem(site.post("/api/v1/add-followers", fields), 400)["errors"]


def test_the_longest_login_that_is_accepted_is_one_that_the_handler_takes(site):
    fields = {"userId": site.user("longest"), "followerLogin": "f" * 57, "count": 1}
    assert site.post("/api/v1/add-followers", fields).status == 202
    assert AddFollowers().validate(fields) == {}
    fields["followerLogin"] += "f"
    assert "followerLogin" in problem(site.post("/api/v1/add-followers", fields), 400)["errors"]
    assert "followerLogin" in AddFollowers().validate(fields)


def test_followers_of_nobody_are_refused(site):
    for asynchronous in (True, False):
        fields = {"userId": 2**62, "followerLogin": "x", "count": 1, "async": asynchronous}
        assert "userId" in problem(site.post("/api/v1/add-followers", fields), 404)["errors"]


@pytest.mark.parametrize(
    "text",
    ["", " \t\n\u3000", "x" * 141, "\U0001f600" * 141, "a\0b", "half \ud83d", 7, None, ["x"]],
)
def test_texts_that_do_not_fit_are_refused(site, text):
    author = site.user(f"author{abs(hash(str(text)))}")
    answer = site.post("/api/v1/post-tweet", {"userId": author, "text": text})
    assert "text" in problem(answer, 400)["errors"]


@pytest.mark.parametrize("user", [0, -1, 2**63, "1", True, 1.5, None])
def test_ids_that_are_none_are_refused(site, user):
    answer = site.post("/api/v1/post-tweet", {"userId": user, "text": "Hello"})
    assert "userId" in problem(answer, 400)["errors"]


def test_a_tweet_of_nobody_is_refused(site):
    for asynchronous in (True, False):
        fields = {"userId": 2**63 - 1, "text": "Hello", "async": asynchronous}
        assert "userId" in problem(site.post("/api/v1/post-tweet", fields), 404)["errors"]


@pytest.mark.parametrize("key", ["x" * 129, "", "two words", "caf\u00e9"])
def test_a_key_that_is_none_is_refused(site, key):
    fields = {"userId": 1, "text": "Hello"}
    answer = site.post("/api/v1/post-tweet", fields, {"Idempotency-Key": key})
    assert "Idempotency-Key" in problem(answer, 400)["errors"]


@pytest.mark.parametrize(
    "count", ["0", "-1", "1000001", "a+word", "", "1.5", "%00", "%ff", "1&count=2"]
)
def test_a_wrong_count_of_a_feed_is_refused(site, count):
    user = site.user(f"reader{abs(hash(count))}")
    answer = site.get(f"/api/v1/get-feed/{user}?count={count}")
    assert "count" in problem(answer, 400)["errors"]


def test_an_unknown_parameter_is_refused(site):
    assert "cuont" in problem(site.get("/api/v1/get-feed/1?cuont=3"), 400)["errors"]


def test_the_feed_of_nobody_is_not_found(site):
    problem(site.get(f"/api/v1/get-feed/{2**62}"), 404)


@pytest.mark.parametrize("user", ["0", "-1", "ann", str(2**63), "1%20", "%C3%A4"])
def test_the_feed_of_what_is_no_id_is_refused(site, user):
    assert "id" in problem(site.get(f"/api/v1/get-feed/{user}"), 400)["errors"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b'{"login": "x"',
        b"\xff\xfe{}",
        b'{"login": "\xe9"}',
        '{"login": "x"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"login": "x"}',
        b"[]",
        b"null",
        b'"text"',
        b'{"userId": NaN}',
        b'{"userId": -Infinity}',
        b"[" * 60_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"userId": ' + b"9" * 5_000 + b"}",
        b'{"login": "x", "login": "y"}',
    ],
)
def test_bodies_that_are_no_json_object_are_refused(site, body):
    problem(site.post("/api/v2/user", body), 400)


def test_a_deep_value_is_refused_where_a_text_is_expected(site):
    body = b'{"login": ' + b"[" * 500 + b"]" * 500 + b"}"
    assert "login" in problem(site.post("/api/v2/user", body), 400)["errors"]


def test_a_body_at_the_limit_is_read_and_one_above_is_not(site):
    fields = json.dumps({"login": "", "email": "a@example.org"}).encode()
    problem(site.post("/api/v2/user", fields.ljust(64 * 1024)), 400)
    problem(site.post("/api/v2/user", fields.ljust(64 * 1024 + 1)), 413)


def test_no_more_than_the_body_is_read_from_a_stream_that_has_no_end():
    stream = io.BytesIO(b"{}POST / HTTP/1.1")
    assert read_bytes({"CONTENT_LENGTH": "2", "wsgi.input": stream}) == b"{}"


def test_a_body_of_10_mb_is_refused_and_its_sender_can_read_why(site):
    assert "65536" in problem(site.post("/api/v2/user", b"x" * 10_000_000), 413)["detail"]


def test_a_chunked_body_is_read_and_a_large_one_refused(site):
    for size, status in ((100, 400), (1_000_000, 413)):
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=PATIENCE_SECONDS)
        with closing(connection):
            chunks = iter([b"x" * 100] * (size // 100))
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/api/v2/user", chunks, headers, encode_chunked=True)
            response = connection.getresponse()
            problem(Answer(response.status, response.headers, response.read()), status)


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "text/plain; charset=utf-8",
        "application/x-www-form-urlencoded",
        "application/json5",
        "application",
        "charset=utf-8",
        ";",
        "",
    ],
)
def test_a_body_of_another_type_is_refused(site, kind):
    problem(site.post("/api/v2/user", {"login": "x"}, {"Content-Type": kind}), 415)


@pytest.mark.parametrize(
    "parameter",
    [
        "charset=utf-16",
        "charset=latin-1",
        "charset=nothing-of-the-kind",
        "charset=",
        'charset=""',
        "charset=utf-8; charset=utf-16",
    ],
)
def test_a_charset_that_is_not_read_is_named(site, parameter):
    answer = site.post(
        "/api/v2/user", {"login": "x"}, {"Content-Type": f"application/json; {parameter}"}
    )
    assert parameter in problem(answer, 415)["detail"]
    assert "UTF-8" in problem(answer, 415)["detail"]


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=utf8",
        "application/json; charset=utf8",
        "application/json ; charset=UTF-8",
        'application/json; charset="utf-8"',
        'application/json; Charset="UTF8"; profile="https://example.org/; charset=latin-1"',
        "application/json; version=1",
        "application/json;",
    ],
)
def test_json_in_utf8_is_read_however_its_type_is_written(site, kind):
    # A field is missing, so the body was read.
    problem(site.post("/api/v2/user", {"login": "x"}, {"Content-Type": kind}), 400)


def test_a_post_without_a_body_is_asked_for_one(site):
    request = (
        b"POST /api/v2/user HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\r\n"
    )
    assert raw(site, request).startswith(b"HTTP/1.1 411 ")


@pytest.mark.parametrize(
    "request_text",
    [
        b"GARBAGE\r\n\r\n",
        b"POST /api/v2/user HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 300_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_as_a_problem(site, request_text):
    head, _, body = raw(site, request_text).partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == int(head.split()[1])


def test_what_is_not_there_is_not_found(site):
    for path in ("/nothing", "/api/v1/", "/api/v1/get-feed/", "/..%2f"):
        problem(site.get(path), 404)


def test_a_path_that_is_not_utf8_is_refused(site):
    for path in ("/%ff", "/api/v1/get-feed/1%ff"):
        problem(site.get(path), 400)


def test_a_wrong_method_is_answered_with_the_right_ones(site):
    answer = site.call("DELETE", "/api/v2/user")
    problem(answer, 405)
    assert answer.headers["Allow"] == "OPTIONS, POST"
    problem(site.call("BREW", "/healthz"), 405)


def test_options_reports_the_methods_and_head_has_no_body(site):
    answer = site.call("OPTIONS", "/api/v1/get-tweets")
    assert (answer.status, answer.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")
    assert "Access-Control-Allow-Origin" not in answer.headers
    head = site.call("HEAD", "/api/v1/get-tweets")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Type"] == "application/json"


def test_no_answer_names_the_server_or_may_be_taken_for_another_type(site):
    for answer in (site.get("/"), site.get("/nothing"), site.post("/api/v2/user", b"x" * 70_000)):
        assert "Server" not in answer.headers
        assert "waitress" not in answer.body.decode().lower()
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_name_that_leads_here_from_elsewhere_is_not_answered(site):
    for host in ("evil.example", "evil.example:8080", "localhost.evil.example", "[", ""):
        problem(site.get("/api/v1/get-tweets", Host=host), 421)
    for host in ("localhost", f"127.0.0.1:{site.port}", "[::1]:80", "LOCALHOST"):
        assert site.get("/api/v1/get-tweets", Host=host).status == 200


def test_who_goes_on_sending_after_a_refusal_is_cut_off_in_the_end(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedbus.operations.http_connections.LINGER_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE_SECONDS) as client:
        client.sendall(
            b"POST /api/v2/user HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n"
        )
        answer = b""
        while piece := client.recv(65536):
            answer += piece
        assert answer.startswith(b"HTTP/1.1 413 ")
        wait_until(lambda: cut_off(client))


def cut_off(client: socket.socket) -> bool:
    try:
        client.sendall(b"x")
    except OSError:
        return True
    return False
