"""Log lines: their two forms, the escaped characters, and the list of events."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import shlex
import sys
import warnings
from pathlib import Path

import pytest
from amqp.abstract_channel import IGNORED_METHOD_DURING_CHANNEL_CLOSE

from feedbus.logs import Event, EventLog, change_format, configure
from feedbus.logs.catalogue import EVENTS

ROOT = Path(__file__).parents[1]
BAD = "a\nb\x1b[31m\x9b1m\u202ec\u2028\ud800é"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
WRITERS = {"info", "warning", "error", "write", "write_event", "_event_line"}


@pytest.fixture
def written(request):
    """The log lines of this process as text or JSON, as the consumer `mail`."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers.clear()
    stream = io.StringIO()
    configure(getattr(request, "param", "text"), stream=stream, consumer="mail")
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    sys.set_coroutine_origin_tracking_depth(0)


def test_a_text_line_has_time_level_event_consumer_fields_and_message(written):
    EventLog("x").warning("dead_letter", "put into the dead letters", key="a b", records=2)
    line = written.getvalue()
    assert re.fullmatch(
        TIME + ' WARNING event=dead_letter consumer=mail key="a b" records=2'
        ' message="put into the dead letters"\n',
        line,
    )


@pytest.mark.parametrize("written", ["json"], indirect=True)
def test_a_json_line_has_the_same_in_one_object(written):
    EventLog("x").info("dead_letter", 'a "b"', consumer="other", records=2, error=OSError("gone"))
    found = json.loads(written.getvalue())
    assert re.fullmatch(TIME, found.pop("time"))
    assert found == {
        "level": "INFO",
        "event": "dead_letter",
        "consumer": "other",
        "records": 2,
        "error": "gone",
        "message": 'a "b"',
    }


@pytest.mark.parametrize("written", ["text", "json"], indirect=True)
def test_foreign_text_is_one_line_and_a_traceback_cannot_pass_for_another(written):
    try:
        raise ValueError(f"no\nERROR event=forged {BAD}")  # noqa: EM102, TRY003, TRY301 -- its text
    except ValueError as error:
        EventLog("x").error("handler_failed", BAD, key=BAD, exc_info=error)
    first, *rest = written.getvalue().removesuffix("\n").split("\n")
    assert first.isprintable()
    assert all(line.startswith("  ") and line.isprintable() for line in rest)
    assert r"ERROR event=forged" in "".join([first, *rest])


async def send() -> None: ...


def forget() -> None:
    send()


def keep() -> None:
    kept = send()  # noqa: F841 -- deleted when the function returns


@pytest.mark.parametrize(("function", "depth"), [(forget, 0), (forget, 1), (keep, 1)])
def test_a_coroutine_that_was_not_awaited_is_an_event_with_its_place(written, function, depth):
    sys.set_coroutine_origin_tracking_depth(depth)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        function()
    place = f"{__file__}:{function.__code__.co_firstlineno + 1}"
    assert (
        "WARNING event=coroutine_not_awaited consumer=mail coroutine=send"
        f" place={place} function={function.__name__} " in written.getvalue()
    )


def test_another_warning_of_python_is_a_line_of_the_log(written):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert "WARNING event=log consumer=mail logger=py.warnings message=" in written.getvalue()
    assert "DeprecationWarning: old" in written.getvalue()


@pytest.mark.parametrize(
    "value", ["", "a b", 'a"b', "a=b", "it's", 'a\\"', "\\", 'x" level=forged', BAD]
)
def test_quoted_values_can_be_taken_apart_again(value):
    parts = shlex.split(str(Event("log", value, {"key": value})))
    assert [part.partition("=")[0] for part in parts] == ["event", "key", "message"]


def test_a_line_of_a_library_is_an_event_with_its_logger(written):
    logging.getLogger("kombu.mixins").warning("lost %s", "it")
    expected = 'WARNING event=log consumer=mail logger=kombu.mixins message="lost it"\n'
    assert written.getvalue().partition(" ")[2] == expected


def test_a_delivery_to_a_channel_that_is_being_closed_is_no_line_of_the_log(written):
    logger = logging.getLogger("amqp")
    logger.warning(IGNORED_METHOD_DURING_CHANNEL_CLOSE, (60, 60), 2)
    assert written.getvalue() == ""
    logger.warning("closed %s", "it")
    assert 'logger=amqp message="closed it"' in written.getvalue()


def test_the_form_can_change_while_a_process_runs(written):
    change_format("json")
    EventLog("x").info("ready", "it is")
    assert json.loads(written.getvalue())["consumer"] == "mail"


def test_every_event_of_the_code_is_documented_and_no_other():
    used = {"log"}  # what libraries log
    for path in (ROOT / "feedbus").rglob("*.py"):
        used |= set(_events_in(ast.parse(path.read_text())))
    listed = [name for group in EVENTS.values() for name in group]
    assert sorted(listed) == sorted(used)


# Events that several modules log, because they mean the same in each of them.
OF_SEVERAL_MODULES = {
    "consumer_paused",  # by the consumer, and by `feedbus up` when it has started
    "ended",  # by the consumer, and by the supervisor
    "hangs",  # the watchdog of the supervisor, and that of `feedbus run`
    "listening",  # by the operations process, and by `feedbus up` when it has started
    "stopping",  # the supervisor stops one process, or all
}


def test_an_event_has_one_meaning():
    modules = {}
    for path in (ROOT / "feedbus").rglob("*.py"):
        for name in set(_events_in(ast.parse(path.read_text()))):
            modules.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    several = {name: found for name, found in modules.items() if len(found) > 1}
    unexpected = {name: several[name] for name in several.keys() - OF_SEVERAL_MODULES}
    assert unexpected == {}, "give each meaning a name of its own"
    assert several.keys() == OF_SEVERAL_MODULES


def _events_in(tree: ast.AST):
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        function = call.func
        of_log = isinstance(function, ast.Attribute) and function.attr in WRITERS
        if of_log and ast.unparse(function.value) not in {"events", "self", "self.stdout_stream"}:
            continue
        if of_log or getattr(function, "id", "") == "Event":
            names = [each.value for each in call.args[:2] if isinstance(each, ast.Constant)]
            yield from (name for name in names[:1] if isinstance(name, str))
