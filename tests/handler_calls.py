"""Calls of the application's handlers, as by a runner, and users for these calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from feedbus import Drop, Records
from feedbus.handling.handlers import MARK
from feedbus.records.packs import Pack
from feedbus.store.peewee import database
from feedbus.testing import RecordingBus
from store import queries

MOMENT = "2026-11-24T22:15:57.123456Z"


class CausedBus(RecordingBus):
    """Also records which record of the batch has caused each message."""

    def __init__(self) -> None:
        super().__init__()
        self.causes: list[int] = []

    def publish_part(self, part):
        self.causes += part.causes
        super().publish_part(part)


def run(function: Any, records: Records, bus: RecordingBus) -> None:
    """Call a batch handler as dispatch does: messages of records are published by the bus."""
    records.bind(bus)
    function(records)


def loaded(function: Any, payload: Mapping[str, Any]) -> dict[str, Any]:
    return getattr(function, MARK).declared().load(payload)


def records(function: Any, payloads: Sequence[Mapping[str, Any]]) -> Records:
    return Records.of([loaded(function, payload) for payload in payloads])


def packed(function: Any, shared: Mapping[str, Any], columns: Mapping[str, list]) -> Records:
    pack = Pack.numbered("pack", next(iter(columns)), shared, columns)
    return Records([getattr(function, MARK).record_loader().load(pack).chunk])


def tweet_of(author: int, **changes: Any) -> dict[str, Any]:
    tweet = {"id": 7, "author": "author", "authorId": author, "text": "hello", "createdAt": MOMENT}
    return tweet | changes


def feed(user: int) -> list[str]:
    tweets = {
        tweet["id"]: tweet["text"] for tweet in queries.read_tweets(queries.read_feed(user, 20))
    }
    return [tweets[number] for number in sorted(tweets)]


def followers(author: int) -> list[int]:
    audiences = queries.stream_followers(author)
    return sorted(each for audience in audiences for ids in audience.values() for each in ids)


@pytest.fixture
def author(store_url) -> int:
    return queries.create_user("author", "author@example.com")


@pytest.fixture
def readers(author) -> list[int]:
    """Three followers: by e-mail, by phone, by e-mail."""
    queries.add_followers(author, "fan", 3)
    return followers(author)


def remove(table: str, *ids: int) -> None:
    for each in ids:
        database.execute_sql(f"DELETE FROM {table} WHERE id = {each}")


def dropped(found: Records) -> dict[int, str]:
    assert all(isinstance(verdict, Drop) for verdict in found.verdicts.values()), found.verdicts
    return {index: verdict.reason for index, verdict in found.verdicts.items()}
