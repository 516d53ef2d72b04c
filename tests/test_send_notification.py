"""The handlers that notify users by e-mail and phone, on both databases."""

from __future__ import annotations

import pytest

from feedbus import Records
from feedbus.testing import RecordingBus
from handlers.send_notification import send_email, send_sms
from store.models import EmailNotification, SmsNotification
from tests.handler_calls import (
    dropped,
    loaded,
    records,
    remove,
    run,
)


def test_an_email_is_stored_once_for_a_tweet_however_often_it_is_sent(author):
    payload = {"userId": author, "text": "hello", "tweetId": 7}
    for _ in range(2):
        run(send_email, records(send_email, [payload, payload]), RecordingBus())
    stored = [(n.source, n.user_id, n.address, n.text) for n in EmailNotification.select()]
    assert stored == [("7", author, "author@example.com", "hello")]


def test_a_notification_without_a_tweet_is_known_by_its_message(author):
    payload = {"userId": author, "text": "hello"}
    loaded_rows = [loaded(send_email, payload)] * 3
    for _ in range(2):
        run(send_email, Records.of(loaded_rows, ids=["7", "b", "7"]), RecordingBus())
    run(send_email, records(send_email, [payload | {"tweetId": 7}]), RecordingBus())
    sources = sorted(found.source for found in EmailNotification.select())
    assert sources == ["7", "message:7", "message:b"]


@pytest.mark.parametrize(
    ("text", "stored"),
    [("x" * 60, "x" * 60), ("x" * 61, "x" * 59 + "…"), ("🙂" * 140, "🙂" * 59 + "…")],
)
def test_a_long_text_is_shortened_for_a_phone(author, readers, text, stored):
    run(send_sms, records(send_sms, [{"userId": readers[1], "text": text}]), RecordingBus())
    assert [found.text for found in SmsNotification.select()] == [stored]


def test_users_who_cannot_be_notified_are_rejected_alone(author, readers):
    payloads = [{"userId": user, "text": "t", "tweetId": 1} for user in (*readers, 9999)]
    by_email, by_phone = records(send_email, payloads), records(send_sms, payloads)
    run(send_email, by_email, RecordingBus())
    run(send_sms, by_phone, RecordingBus())
    assert {i: v.reason for i, v in by_email.verdicts.items()} == {
        1: f"user {readers[1]} does not exist or has no e-mail address",
        3: "user 9999 does not exist or has no e-mail address",
    }
    assert sorted(by_phone.verdicts) == [0, 2, 3]
    assert [found.user_id for found in EmailNotification.select()] == [readers[0], readers[2]]
    assert [found.user_id for found in SmsNotification.select()] == [readers[1]]


def test_notifications_of_a_deleted_user_are_dropped_alone(author, readers):
    remove("users", readers[0])
    payloads = [{"userId": user, "text": "t", "tweetId": 1} for user in (readers[0], readers[2])]
    by_email, by_phone = records(send_email, payloads), records(send_sms, payloads[:1])
    run(send_email, by_email, RecordingBus())
    run(send_sms, by_phone, RecordingBus())
    assert dropped(by_email) == dropped(by_phone) == {0: f"user {readers[0]} was deleted"}
    assert [found.user_id for found in EmailNotification.select()] == [readers[2]]
