"""The schemas of requests and responses; they check requests and describe both in OpenAPI."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from store import logins
from store.models import (
    EMAIL_CHARACTERS,
    FOLLOWER_LOGIN_CHARACTERS,
    LOGIN_CHARACTERS,
    PHONE_CHARACTERS,
    TWEET_CHARACTERS,
)
from web.fields import LARGEST, Flag, Login, Shape, Text, Whole, WholeText

MOST_FOLLOWERS = 100_000
MOST_TWEETS = 1_000
LAST_PAGE = 1_000_000
KEY_CHARACTERS = 128

LOGIN = Shape(logins.PATTERN, logins.EXPECTED)
# Blanks by name: \s is not the same set in every language that reads the OpenAPI document.
# Of what is shown, only blanks and NUL are refused: joiners and marks of direction belong to
# emoji and to many languages' spelling. Who shows it has to isolate it, as HTML's <bdi> does.
TWEET = Shape(r"^[^\x00]*[^\s\x00\x1c-\x1f\x85\ufeff][^\x00]*$", "more than blanks")
EMAIL = Shape(r"^[!-?A-~]+@[!-?A-~]+$", "an address such as ann@example.org")
PHONE = Shape(r"^\+?[0-9]+$", "digits, with or without a leading +")
IDS = validate.Range(1, LARGEST)


def identifier(**options: Any) -> Whole:
    """Return a new field for the id of a user or a tweet.

    Args:
        options: the options of the field for marshmallow, such as `required`.

    """
    return Whole(validate=IDS, **options)


class UserBody(Schema):
    """The body of a request that creates a user.

    Notifications go to the e-mail address, or else to the phone.
    """

    login = Login(
        required=True,
        validate=[validate.Length(1, LOGIN_CHARACTERS), LOGIN],
        metadata={"description": "The user's own name.", "examples": ["ann"]},
    )
    email = Text(
        validate=[validate.Length(3, EMAIL_CHARACTERS), EMAIL],
        metadata={"examples": ["ann@example.org"]},
    )
    phone = Text(
        validate=[validate.Length(3, PHONE_CHARACTERS), PHONE],
        metadata={"examples": ["+4930123456"]},
    )

    @validates_schema
    def reachable(self, loaded: dict[str, Any], **_: Any) -> None:
        """Refuse a user who has neither an e-mail address nor a phone; marshmallow calls it.

        Raises:
            ValidationError: both are missing.

        """
        if "email" not in loaded and "phone" not in loaded:
            msg = "Expected email or phone."
            raise ValidationError(msg, "email")


class FollowersBody(Schema):
    """The body of a request that lets users follow a user.

    The logins of the followers are followerLogin, an underscore and a number.
    """

    user_id = identifier(data_key="userId", required=True)
    follower_login = Login(
        data_key="followerLogin",
        required=True,
        validate=[validate.Length(1, FOLLOWER_LOGIN_CHARACTERS), LOGIN],
        metadata={"description": "The beginning of the followers' logins."},
    )
    count = Whole(required=True, validate=validate.Range(1, MOST_FOLLOWERS))
    asynchronous = Flag(
        data_key="async",
        load_default=True,
        metadata={"description": "False: the followers are created before the answer."},
    )


class TweetBody(Schema):
    """The body of a request that posts a tweet."""

    user_id = identifier(data_key="userId", required=True)
    text = Text(
        required=True,
        validate=[validate.Length(1, TWEET_CHARACTERS), TWEET],
        metadata={"examples": ["Hello, followers"]},
    )
    asynchronous = Flag(
        data_key="async",
        load_default=True,
        metadata={"description": "False: all feeds are filled before the answer."},
    )


class UserPath(Schema):
    """The parameter of a path that names a user by the id."""

    user_id = WholeText(data_key="id", required=True, validate=IDS)


def cursor() -> WholeText:
    """Return a new field for the parameter `before`, with which a list is continued."""
    description = "Only tweets before this id: the value of `next` in the previous answer."
    return WholeText(load_default=None, validate=IDS, metadata={"description": description})


class FeedQuery(Schema):
    """The query parameters of a request that reads a feed."""

    before = cursor()

    count = WholeText(
        load_default=20,
        validate=validate.Range(1, MOST_TWEETS),
        metadata={"description": "The number of tweets, the latest ones."},
    )


class PageQuery(Schema):
    """The query parameters of a request that reads all tweets."""

    before = cursor()
    page = WholeText(
        load_default=0,
        validate=validate.Range(0, LAST_PAGE),
        metadata={
            "description": "The page, from 0. A new tweet moves all others, so the next page can"
            " repeat a tweet. `before` never repeats a tweet. If it is given, `page` is ignored."
        },
    )
    per_page = WholeText(
        data_key="perPage", load_default=20, validate=validate.Range(1, MOST_TWEETS)
    )


class IdAnswer(Schema):
    """The answer with the id of a created user or tweet."""

    id = identifier(required=True)


class CreatedAnswer(Schema):
    """The answer with the number of followers that were created."""

    created = Whole(required=True, validate=validate.Range(min=0))


class AcceptedAnswer(Schema):
    """The answer to a request whose followers will be created later."""

    accepted = Flag(required=True)


class TweetEntry(Schema):
    """A tweet in an answer."""

    id = identifier(required=True)
    author = fields.String(required=True, metadata={"description": "The author's login."})
    text = fields.String(required=True)
    created_at = fields.DateTime(data_key="createdAt", required=True)


class TweetsAnswer(Schema):
    """The answer with a list of tweets, and the cursor with which the list continues."""

    tweets = fields.List(fields.Nested(TweetEntry), required=True)
    next = identifier(
        required=True,
        allow_none=True,
        metadata={
            "description": "To get the tweets before these, send another request with this value"
            " as `before`; null if there are no more."
        },
    )


class ProblemAnswer(Schema):
    """The answer to a request that failed: a problem document (RFC 9457)."""

    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True, validate=validate.Range(400, 599))
    detail = fields.String(required=True)
    errors = fields.Dict(
        keys=fields.String(),
        values=fields.List(fields.String()),
        metadata={"description": 'The errors of each field; "" is the whole body.'},
    )
