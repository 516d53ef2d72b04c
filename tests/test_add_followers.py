"""The handler that adds followers, on both databases."""

from __future__ import annotations

import pytest

from feedbus import Drop, Reject
from handlers.add_followers import add_followers
from store.models import Follower
from tests.handler_calls import (
    loaded,
    remove,
)


def test_followers_are_added_once_however_often_the_message_comes(author):
    message = loaded(add_followers, {"userId": author, "followerLogin": "fan", "count": 3})
    for _ in range(2):
        add_followers(message)
    assert Follower.select().count() == 3


def test_followers_of_an_unknown_user_are_rejected_with_the_reason(store_url):
    message = loaded(add_followers, {"userId": 5, "followerLogin": "fan", "count": 3})
    with pytest.raises(Reject, match="no user has the id 5"):
        add_followers(message)


def test_followers_of_a_deleted_user_are_dropped(author):
    remove("users", author)
    message = loaded(add_followers, {"userId": author, "followerLogin": "fan", "count": 3})
    with pytest.raises(Drop, match=f"no user has the id {author}"):
        add_followers(message)
