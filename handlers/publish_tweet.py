"""publish_tweet: send a tweet to each follower of its author, keyed by the follower."""

from __future__ import annotations

from typing import Any

from feedbus import Bus, Reject, handler
from handlers.schemas import PublishTweet
from store import moments, queries


@handler(PublishTweet)
def publish_tweet(message: dict[str, Any], bus: Bus) -> None:
    """Publish an update_feed record a follower, chunk by chunk, so that memory stays small."""
    created_at_us = moments.to_us(message["created_at"])
    author_id = message["author_id"]
    tweet = queries.NewTweet(message["id"], author_id, message["text"], created_at_us)
    if not queries.ensure_tweets([tweet]):
        reason = f"no user has the id {author_id}, so the tweet has no author"
        raise Reject(reason)
    shared = {
        "id": tweet.id,
        "author": message["author"],
        "authorId": author_id,
        "text": tweet.text,
        "createdAt": moments.to_text(created_at_us),
    }
    for followers in queries.stream_followers(author_id):
        bus.publish_columns(
            "update_feed", list(map(str, followers)), {"followerId": followers}, shared
        )
