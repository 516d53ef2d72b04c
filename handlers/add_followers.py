"""add_followers: create users who follow a given user."""

from __future__ import annotations

from typing import Any

from feedbus import Drop, Reject, handler
from handlers.schemas import AddFollowers
from store import queries


@handler(AddFollowers)
def add_followers(message: dict[str, Any]) -> None:
    """Handle a message of add_followers: let users with numbered logins follow a user.

    Followers that do not exist are created. If the message is repeated, nothing changes. If the
    followed user was deleted, the message is dropped. If the followed user is unknown, the message
    becomes a dead letter.

    Args:
        message: the fields, as AddFollowers loads them.

    """
    try:
        queries.add_followers(message["user_id"], message["follower_login"], message["count"])
    except queries.UnknownUser as error:
        verdict = Drop if queries.deleted(users=[error.user_id]).users else Reject
        raise verdict(str(error)) from error
