"""add_followers: create users who follow a given user."""

from __future__ import annotations

from typing import Any

from feedbus import Drop, Reject, handler
from handlers.schemas import AddFollowers
from store import queries


@handler(AddFollowers)
def add_followers(message: dict[str, Any]) -> None:
    """Add the missing followers; a repeated message adds none, and a deleted user gets none."""
    try:
        queries.add_followers(message["user_id"], message["follower_login"], message["count"])
    except queries.UnknownUser as error:
        verdict = Drop if queries.deleted(users=[error.user_id]).users else Reject
        raise verdict(str(error)) from error
