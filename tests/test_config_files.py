"""Errors of a whole file: its text, its syntax and its encoding, with their positions."""

from __future__ import annotations

from pathlib import Path

import pytest

from feedbus.errors import Problem
from tests.topologies import (
    FEED,
    MARK,
    ORDERS,
    START,
    assert_reported,
    places,
    problems_of,
    write,
)


def test_every_problem_in_a_topology_is_reported_in_one_pass_in_the_order_of_the_file(tmp_path):
    marked = (
        START.replace('"topic"', '▸"topics"')
        + '[broker]\nurl = ▸"http://x"\n'
        + '[queues.a]\nexchange = ▸"feeds"\nhandler = ▸"x"\nretry = ▸{ delays = [▸"x"] }\n'
        + "▸[queues.b]\nexchange = 'feed'\nweight = ▸0\nshards = ▸0\n▸shads = 1\n"
        + "▸▸[queues.▸'b c']\nbatch = { size = ▸0, wait = ▸0 }\n"
        + "[processes.p]\ncommand = ▸7\n[▸procesess]\n"
    )
    path = write(tmp_path, marked.replace(MARK, ""))
    found = [f"{problem.line}:{problem.column}" for problem in problems_of(path)]
    assert found == places(marked)


def test_a_problem_reports_its_parts(tmp_path):
    path = write(tmp_path, START + ORDERS.replace('exchange = "orders"', 'exchange = "order"'))
    assert problems_of(path) == (
        Problem(
            file=str(path),
            line=8,
            column=12,
            table="queues.orders",
            key="exchange",
            message="no exchange named 'order'",
            expected="one of orders, mail, news, feed",
            got="'order'",
            suggestion="orders",
        ),
    )


def test_columns_count_characters_and_not_bytes(tmp_path):
    assert_reported(
        tmp_path,
        START + FEED + '"arguments" = { "é😀" = "ü", "x" = ▸[] }\n',
        "[queues.feed] arguments.x: expected a text, an integer, a number, true or false, "
        "got an empty array",
    )


@pytest.mark.parametrize(
    "written",
    [
        "[queues.feed.batch]\nsize = ▸0\n",
        "[queues.feed]\nbatch.size = ▸0\n",
        "[queues]\nfeed.batch = { 'size' = ▸0 }\n",
        'queues."feed".batch."size" = ▸0\n',
        "[ queues . feed ]\r\nbatch = {\tsize = ▸0 } # why\r\n",
    ],
    ids=["header", "dotted key", "inline", "quoted", "blanks and CRLF"],
)
def test_a_value_is_found_however_toml_spells_its_path(tmp_path, written):
    rest = '[defaults.queue]\nexchange = "feed"\nhandler = "a:b"\n'
    body = written + START[14:] if written.startswith("queues.") else START[14:] + written
    marked = f'name = "shop"\n{body}{rest}'
    path = write(tmp_path, marked.replace(MARK, ""))
    (problem,) = problems_of(path)
    assert f"{problem.line}:{problem.column}" == places(marked)[0]
    assert problem.message == "expected a positive integer, got 0"


VALUE = "write a text in quotes, a number, true or false"
OWN_LINE = "write each option on a line of its own, and texts in quotes"


@pytest.mark.parametrize(
    ("marked", "reported"),
    [
        ("name = ▸\n", f"expected a value, got the end of the line; {VALUE}"),
        ("name = 1\n▸name = 2\n", "name: it is set in line 1 already; remove one of the two"),
        (
            "[queues.a]\nonce = true\n▸[queues.a]\n",
            "[queues] a: it is set in line 1 already; remove one of the two",
        ),
        (
            'retry = { then = "drop", ▸then = "drop" }\n',
            "[retry] then: it is set in line 1 already; remove one of the two",
        ),
        ("once = ▸True\n", "expected a value, got True; write true"),
        ("once = ▸off\n", "expected a value, got off; write false"),
        ("url = ▸None\n", "expected a value, got None; leave the option out"),
        ("url = ▸app:h\n", 'expected a value, got app:h; write a text in quotes: "app:h"'),
        ("name = [1,\n▸", f"expected a value, got the end of the file; {VALUE}"),
        (
            "a = 1\n\n[x▸\ny = 2",
            "expected ']' at the end of a table's name, got the end of the line; write [TABLE]",
        ),
        (
            "▸é = 1\n",
            (
                "expected [TABLE] or NAME = VALUE, got é; write a name with other letters than"
                " A to Z"
                " in quotes"
            ),
        ),
        (
            "a = 1▸]\nb = 2\n",
            f"expected the end of the line after a value, got ']'; {OWN_LINE}",
        ),
        (
            "a ▸b = 1\n",
            "expected '=' after the name of an option, got b; write NAME = VALUE",
        ),
        (
            '["a\\q▸"]\nb = 2\n',
            (
                "expected an escape such as \\n, got '\"'; write \\\\ for a backslash, or the"
                " text in"
                " single quotes"
            ),
        ),
        (
            "wait = ▸10m\n",
            'expected the end of the line after a value, got 10m; write a text in quotes: "10m"',
        ),
        ("shards = ▸04\n", "expected the end of the line after a value, got 04; write 4"),
        ("a = 4 ▸5\n", f"expected the end of the line after a value, got 5; {OWN_LINE}"),
        (
            "url = ▸amqp://ann:secret@host\n",
            'expected a value, got amqp://…; write a text in quotes: "amqp://…"',
        ),
        (
            'name = "shop▸\n',
            (
                "expected a quote at the end of a text, got the end of the line; end the text"
                " with a"
                " quote"
            ),
        ),
        ("a = [1\n▸", "expected ',' or ']', got the end of the file; end the array with ']'"),
        (
            "a = { b = 1, ▸}\n",
            (
                "expected the name of an option, got '}'; write a table in braces on one line,"
                " without"
                " a comma at its end"
            ),
        ),
        (
            "a.b = 1\n▸a = 2\n",
            "expected each name once, got a name that is already set; remove one of the two",
        ),
    ],
    ids=[
        "no value",
        "a key twice",
        "a table twice",
        "an inline key twice",
        "Python's True",
        "off",
        "Python's None",
        "no quotes",
        "cut off",
        "a bracket open",
        "a bare key beyond ASCII",
        "a bracket too many",
        "two words",
        "an escape in a header",
        "a duration without quotes",
        "a number that begins with 0",
        "two values",
        "a URL without quotes",
        "a text without its end",
        "an array without its end",
        "a comma at the end of a table in braces",
        "a name that is a table and a value",
    ],
)
def test_a_file_that_is_not_toml_is_reported_with_its_line_and_column(tmp_path, marked, reported):
    assert_reported(tmp_path, marked, reported)


def test_a_problem_is_one_line_whatever_the_value_contains(tmp_path):
    (problem,) = problems_of(write(tmp_path, START + FEED + 'shards = "x\\ny\\u001b"\n'))
    assert str(problem).endswith(r"got 'x\ny\x1b'")


def test_a_name_with_a_dot_that_is_not_in_quotes_is_the_only_problem_of_its_table(tmp_path):
    text = START + "[queues.feed.email]\nexchange = 'feed'\nhandler = 'a:b'\n"
    (problem,) = problems_of(write(tmp_path, text))
    assert problem.table == "queues.feed.email"
    assert problem.message == (
        'a name that contains a dot must be in quotes: write [queues."feed.email"]'
    )


def test_an_empty_file_is_reported_with_what_it_needs(tmp_path):
    path = write(tmp_path, "")
    assert [(p.line, p.column, p.key, p.got) for p in problems_of(path)] == [
        (1, 1, "name", "nothing"),
        (1, 1, "exchanges", "nothing"),
        (1, 1, "queues", "nothing"),
    ]


def test_a_file_that_is_nested_too_deeply_is_reported(tmp_path):
    (problem,) = problems_of(write(tmp_path, "a = " + "[" * 100_000))
    assert problem.message == "too deeply nested: expected fewer brackets within brackets"


def test_a_file_that_is_not_utf_8_is_reported_with_its_line_and_column(tmp_path):
    path = tmp_path / "topology.toml"
    path.write_bytes(
        'name = "é"\nvar = "\xe9"\n'.encode("latin-1").replace(b"\xe9", "é".encode(), 1)
    )
    (problem,) = problems_of(path)
    assert str(problem) == f"{path}:2:8: expected UTF-8, got the byte 0xe9"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent.toml", "no such file or directory"),
        (".", "is a directory"),
        ("topology.toml/x", "not a directory"),
        ("x" * 300, "file name too long"),
        ("a\0b", "no path can contain such a character"),
    ],
    ids=["missing", "a folder", "below a file", "too long a name", "a name with NUL"],
)
def test_a_file_that_cannot_be_read_is_reported_by_its_reason(tmp_path, name, reason):
    write(tmp_path, START + ORDERS)
    (problem,) = problems_of(tmp_path / name)
    assert (problem.line, problem.column) == (1, 1)
    assert problem.message.startswith(f"cannot be read: {reason}")


def test_the_error_of_a_missing_file_names_the_command_that_creates_a_project(tmp_path):
    (problem,) = problems_of(tmp_path / "topology.toml")
    assert problem.message.endswith("for another file; `feedbus init NAME` creates a project")


def test_a_deleted_current_folder_is_reported_as_a_missing_file(tmp_path, monkeypatch):
    folder = tmp_path / "deleted"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    (problem,) = problems_of(Path("topology.toml"))
    assert problem.message.startswith("cannot be read: no such file")


def test_a_file_without_end_is_refused():
    (problem,) = problems_of(Path("/dev/zero"))
    assert problem.message == "expected at most 10,000,000 bytes, got more"
