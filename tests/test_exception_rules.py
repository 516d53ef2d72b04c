"""retry_on and reject_on: which exceptions of a handler are worth another attempt."""

from __future__ import annotations

from pathlib import Path

import pytest
from marshmallow import Schema, fields

from feedbus import Retry, handler
from feedbus.errors import UsageError
from feedbus.handling.exception_rules import resolve_exception
from feedbus.testing import TestSystem
from feedbus.topology import RetryPolicy
from tests.handlers_to_run import topology_of


class DeclinedError(ValueError):
    """A payment is declined."""


RAISED = {
    "value": ValueError("bad"),
    "declined": DeclinedError("card"),
    "timeout": TimeoutError("slow"),
    "os": OSError("down"),
    "key": KeyError("k"),
    "retry": Retry("later"),
    "result": None,
}


class Named(Schema):
    kind = fields.String(required=True)


@handler(Named)
def take(record: dict[str, str]) -> None:
    error = RAISED[record["kind"]]
    if error is None:
        return True  # what it may not
    raise error


def attempts(**rules: tuple[str, ...]) -> dict[str, int]:
    """Return how often each was tried, with one retry."""
    topology = topology_of(f"{__name__}:take", retry=RetryPolicy((1.0,), **rules))
    with TestSystem(topology) as system:
        for kind in RAISED:
            system.publish("work", {"kind": kind})
        system.run()
        letters = system.dead_letters()
        assert len(letters) == len(RAISED)
        reasons = {letter.payload["kind"]: letter.reason for letter in letters}
        assert reasons["declined"] == "DeclinedError: card"
        return {letter.payload["kind"]: letter.attempts for letter in letters}


def test_what_reject_on_names_is_a_dead_letter_at_once_with_its_subclasses():
    found = attempts(reject_on=("ValueError", "KeyError"))
    assert [kind for kind, tried in found.items() if tried == 1] == ["value", "declined", "key"]


def test_where_retry_on_names_some_all_others_are_dead_letters_at_once():
    found = attempts(retry_on=("OSError",))
    assert sorted(kind for kind, tried in found.items() if tried == 2) == ["os", "retry", "timeout"]


def test_the_nearest_class_of_an_exception_counts():
    found = attempts(
        retry_on=(f"{__name__}:DeclinedError", "OSError"), reject_on=("ValueError", "TimeoutError")
    )
    assert sorted(kind for kind, tried in found.items() if tried == 2) == [
        "declined",
        "os",
        "retry",
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ValueErorr", "there is no built-in exception 'ValueErorr'; write its module before"),
        ("len", "len is not an exception class but builtin_function_or_method"),
        ("int", "int is not an exception class but int"),
        ("json.JSONDecoder", "is not an exception class but JSONDecoder"),
        ("json.Absent", "json has no 'Absent'"),
        ("absent.Error", "cannot import absent"),
        ("feedbus.Reject", "feedbus.Reject is an exception of feedbus, which has a fixed meaning"),
        ("feedbus.StoreOutage", "cannot|has no"),
        ("feedbus.Outage", "is an exception of feedbus"),
    ],
)
def test_what_is_no_exception_is_a_problem(name, said):
    with pytest.raises(UsageError, match=said):
        resolve_exception(name, Path.cwd())


def test_exceptions_are_named_with_a_dot_or_a_colon():
    assert resolve_exception("ValueError", Path.cwd()) is ValueError
    assert resolve_exception(f"{__name__}.DeclinedError", Path.cwd()) is DeclinedError
    assert resolve_exception(f"{__name__}:DeclinedError", Path.cwd()) is DeclinedError
