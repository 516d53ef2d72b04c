"""The messages of each exchange; in JSON, field names are camelCase, as other systems expect.

Unknown fields are ignored, so that messages of newer publishers do not become dead letters.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from store import logins, models

LOGIN = validate.Regexp(re.compile(logins.PATTERN + r"\Z"), error=f"Expected {logins.EXPECTED}.")
CHANNELS = ("", "email", "phone", "email phone")
ID: dict[str, Any] = {"strict": True, "validate": validate.Range(min=1, max=2**63 - 1)}
YEARS = validate.Range(datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC))


def check_text(text: str) -> None:
    """Check that a text is not blank, and that every database can store it.

    Raises:
        ValidationError: the text is blank, has a NUL, or has half of a surrogate pair.

    """
    if not text.strip() or "\0" in text or text.encode(errors="ignore").decode() != text:
        msg = "Must not be blank, contain NUL, or have half of a surrogate pair."
        raise ValidationError(msg)


def text(characters: int) -> fields.Str:
    """Return a new field for a required text.

    Args:
        characters: the largest number of characters.

    """
    return fields.Str(required=True, validate=[validate.Length(max=characters), check_text])


class Login(fields.Str):
    """The field of a login; it is loaded in the form in which it is stored and compared."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        return logins.normalized(super()._deserialize(value, *args, **kwargs))


class Message(Schema):
    """The base of the schemas of all messages; it ignores unknown fields."""

    class Meta:
        """marshmallow's settings of the schema: it ignores unknown fields."""

        unknown = EXCLUDE


class AddFollowers(Message):
    """The schema of a message of add_followers: let users with numbered logins follow a user."""

    user_id = fields.Int(data_key="userId", required=True, **ID)
    follower_login = Login(
        required=True,
        data_key="followerLogin",
        validate=[validate.Length(max=models.FOLLOWER_LOGIN_CHARACTERS), check_text, LOGIN],
    )
    count = fields.Int(required=True, strict=True, validate=validate.Range(min=1, max=1_000_000))


class PublishTweet(Message):
    """The schema of a message of publish_tweet: send a tweet to its author's followers."""

    id = fields.Int(required=True, **ID)
    author = text(models.LOGIN_CHARACTERS)
    author_id = fields.Int(data_key="authorId", required=True, **ID)
    text = text(models.TWEET_CHARACTERS)
    created_at = fields.AwareDateTime(
        required=True, format="iso", default_timezone=UTC, data_key="createdAt", validate=YEARS
    )


class UpdateFeed(PublishTweet):
    """The schema of a message of update_feed: put a tweet into one follower's feed.

    `channels` says how the follower can be notified: "", "email", "phone" or "email phone". It is
    None if this is not known.
    """

    follower_id = fields.Int(data_key="followerId", required=True, **ID)
    channels = fields.Str(load_default=None, allow_none=True, validate=validate.OneOf(CHANNELS))


class SendNotification(Message):
    """The schema of a message of send_notification: notify a user of a tweet or another event."""

    user_id = fields.Int(data_key="userId", required=True, **ID)
    text = text(models.EMAIL_TEXT_CHARACTERS)
    tweet_id = fields.Int(data_key="tweetId", allow_none=True, load_default=None, **ID)
