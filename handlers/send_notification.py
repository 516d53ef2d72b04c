"""Store notifications by e-mail and SMS; a message that is delivered twice is stored once."""

from __future__ import annotations

from feedbus import Records, handler
from handlers.schemas import SendNotification
from store import models, queries


@handler(SendNotification, batch=True)
def send_email(records: Records) -> None:
    """Handle notifications: store an e-mail for each record.

    Records of deleted users are dropped. Records of users without an e-mail address become dead
    letters.

    Args:
        records: the records of a batch, as SendNotification loads them.

    """
    _drop_or_reject(records, queries.add_email_notifications(_grouped(records)), "e-mail address")


@handler(SendNotification, batch=True)
def send_sms(records: Records) -> None:
    """Handle notifications: store a short message for each record.

    Records of deleted users are dropped. Records of users without a phone become dead letters.

    Args:
        records: the records of a batch, as SendNotification loads them.

    """
    groups = [(source, shorten(text), users) for source, text, users in _grouped(records)]
    _drop_or_reject(records, queries.add_sms_notifications(groups), "phone")


def shorten(text: str) -> str:
    """Return the text of an SMS; if it is too long, an ellipsis replaces its end.

    Args:
        text: the text of the notification.

    """
    most = models.SMS_TEXT_CHARACTERS
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _grouped(records: Records) -> list[tuple[str, str, list[int]]]:
    """Return (source, text, users) for each notification.

    The source identifies a notification, also when its message is delivered again: the id of the
    tweet or, without a tweet, of the message.
    """
    tweets = records.where_not("tweet_id", {None}).group_by("tweet_id", "text").items()
    other = records.where("tweet_id", {None})
    columns = zip(other.ids, other.column("text"), other.column("user_id"), strict=True)
    return [
        *((str(tweet), text, some.column("user_id")) for (tweet, text), some in tweets),
        *((f"message:{name}", text, [user]) for name, text, user in columns),
    ]


def _drop_or_reject(records: Records, unreached: set[int], lacking: str) -> None:
    """Drop records of users who were deleted; reject those of users who cannot be reached.

    Args:
        records: all records of the batch.
        unreached: the ids of the users who do not exist, or have no address of this kind.
        lacking: the kind of the address, for the reason of the rejection: "e-mail address" or
            "phone".

    """
    lost = records.where("user_id", unreached)
    gone = queries.deleted(users=unreached).users
    lost.where("user_id", gone).drop(lambda r: f"user {r['user_id']} was deleted")
    lost.remaining().reject(lambda r: f"user {r['user_id']} does not exist or has no {lacking}")
