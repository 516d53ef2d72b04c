"""What travels on each exchange; names on the wire are camelCase, as other systems know them.

Unknown fields are left out, not refused: a publisher may say more than a handler needs, and one
that is newer than its consumers must not fill their dead letters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from store import logins
from store.models import (
    EMAIL_TEXT_CHARACTERS,
    FOLLOWER_LOGIN_CHARACTERS,
    LOGIN_CHARACTERS,
    TWEET_CHARACTERS,
)

LARGEST_ID = 2**63 - 1
LOGIN = re.compile(logins.PATTERN)
CHANNELS = ("", "email", "phone", "email phone")
MOST_FOLLOWERS = 1_000_000
YEARS = validate.Range(
    min=datetime(1970, 1, 1, tzinfo=UTC),
    max=datetime(9999, 12, 30, tzinfo=UTC),
    error="Must be between the years 1970 and 9999.",
)


def check_text(text: str) -> None:
    """Refuse text that is blank, or that no database stores."""
    if not text.strip():
        msg = "Must not be blank."
        raise ValidationError(msg)
    if "\0" in text:
        msg = "Must not contain NUL."
        raise ValidationError(msg)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        msg = "Must be valid Unicode: it has half of a surrogate pair."
        raise ValidationError(msg) from error


def check_login(login: str) -> None:
    """Refuse a login with characters that are not seen."""
    if not LOGIN.fullmatch(login):
        msg = f"Expected {logins.EXPECTED}."
        raise ValidationError(msg)


def identity(name: str, **options: Any) -> fields.Int:
    """Return the field of a positive 63-bit id that is called so on the wire."""
    span = validate.Range(min=1, max=LARGEST_ID)
    return fields.Int(strict=True, data_key=name, validate=span, **{"required": True, **options})


def text(name: str, characters: int) -> fields.Str:
    """Return the field of a text of at most so many characters."""
    length = validate.Length(max=characters)
    return fields.Str(required=True, data_key=name, validate=[length, check_text])


class Login(fields.Str):
    """A login, in the form in which it is stored and compared."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> str:
        return logins.normalized(super()._deserialize(value, attr, data, **kwargs))


class Message(Schema):
    """What all messages have in common."""

    class Meta:
        """Fields that a handler does not know are left out."""

        unknown = EXCLUDE


class AddFollowers(Message):
    """add_followers: so many made-up users are to follow a user."""

    user_id = identity("userId")
    follower_login = Login(
        required=True,
        data_key="followerLogin",
        validate=[
            validate.Length(max=FOLLOWER_LOGIN_CHARACTERS),
            check_text,
            check_login,
        ],
    )
    count = fields.Int(
        required=True, strict=True, validate=validate.Range(min=1, max=MOST_FOLLOWERS)
    )


class PublishTweet(Message):
    """publish_tweet: a tweet is to reach its author's followers."""

    id = identity("id")
    author = text("author", LOGIN_CHARACTERS)
    author_id = identity("authorId")
    text = text("text", TWEET_CHARACTERS)
    created_at = fields.AwareDateTime(
        required=True, format="iso", default_timezone=UTC, data_key="createdAt", validate=YEARS
    )


class UpdateFeed(PublishTweet):
    """update_feed: a tweet is to stand in one follower's feed.

    Channels are how the follower can be told, where the publisher knows it.
    """

    follower_id = identity("followerId")
    channels = fields.Str(load_default=None, allow_none=True, validate=validate.OneOf(CHANNELS))


class SendNotification(Message):
    """send_notification: a user is to be told something, of a tweet or of whatever else."""

    user_id = identity("userId")
    text = text("text", EMAIL_TEXT_CHARACTERS)
    tweet_id = identity("tweetId", required=False, allow_none=True, load_default=None)
