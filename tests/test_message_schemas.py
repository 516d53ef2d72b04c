"""The messages that the application's schemas refuse, and the fields in the errors."""

from __future__ import annotations

from typing import Any

import pytest
from marshmallow import ValidationError

from handlers import schemas

BAD_TEXTS = ["", " \t\n\u2003", "x" * 141, "a\0b", "\ud83d", 5, None]
BAD_IDS = [0, -1, 2**63, 1.0, "1", True, None]


def tweet_of(**changes: Any) -> dict[str, Any]:
    tweet = {"id": 7, "author": "author", "authorId": 1, "text": "hello"}
    return {**tweet, "createdAt": "2026-11-24T22:15:57.123456Z", **changes}


@pytest.mark.parametrize("text", BAD_TEXTS, ids=repr)
def test_a_text_that_no_tweet_has_is_refused_by_field(text):
    with pytest.raises(ValidationError) as caught:
        schemas.PublishTweet().load(tweet_of(text=text))
    assert list(caught.value.messages) == ["text"]


@pytest.mark.parametrize("login", ["", " ", "a b", "a\n", "a\0b", "\ud83d", "x" * 58], ids=repr)
def test_a_login_that_no_user_can_have_is_refused_by_field(login):
    with pytest.raises(ValidationError) as caught:
        schemas.AddFollowers().load({"userId": 1, "followerLogin": login, "count": 1})
    assert list(caught.value.messages) == ["followerLogin"]


@pytest.mark.parametrize("number", BAD_IDS, ids=repr)
def test_an_id_that_is_none_is_refused_by_field(number):
    with pytest.raises(ValidationError) as caught:
        schemas.UpdateFeed().load(tweet_of(followerId=number))
    assert list(caught.value.messages) == ["followerId"]


@pytest.mark.parametrize("count", [0, -1, 1_000_001, "ten", 1.5], ids=repr)
def test_a_count_that_is_none_is_refused_by_field(count):
    with pytest.raises(ValidationError) as caught:
        schemas.AddFollowers().load({"userId": 1, "followerLogin": "f", "count": count})
    assert list(caught.value.messages) == ["count"]


@pytest.mark.parametrize(
    "moment", ["yesterday", 5, "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]
)
def test_a_moment_that_is_none_is_refused_by_field(moment):
    with pytest.raises(ValidationError) as caught:
        schemas.PublishTweet().load(tweet_of(createdAt=moment))
    assert list(caught.value.messages) == ["createdAt"]


def test_a_text_of_140_emoji_passes():
    assert schemas.PublishTweet().load(tweet_of(text="🙂" * 140))["text"] == "🙂" * 140
