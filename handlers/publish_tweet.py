"""publish_tweet: send tweets to each follower of their authors; the key is the follower."""

from __future__ import annotations

from feedbus import Records, handler
from handlers.schemas import PublishTweet
from store import moments, queries

COPIED = {"id": "id", "author": "author", "authorId": "author_id", "text": "text"}


@handler(PublishTweet, batch=True)
def publish_tweet(tweets: Records) -> None:
    """Handle tweets: publish an update_feed message for each follower of each tweet's author.

    Args:
        tweets: the records of a batch, as PublishTweet loads them.

    """
    set_aside(tweets.where_not("id", queries.ensure_tweets(tweets)))
    by_author = tweets.remaining().group_by("author_id")
    for author, audience in queries.audiences(by_author):
        for tweet in by_author[author].singles():
            moment = moments.to_text(moments.to_us(tweet.first["created_at"]))
            for channels, followers in audience.items():
                tweet.publish_columns(
                    "update_feed",
                    {**COPIED, "followerId": followers},
                    key_column="followerId",
                    shared={"createdAt": moment, "channels": channels},
                )


def set_aside(lost: Records) -> None:
    """Drop records of deleted tweets or authors; reject records of unknown authors.

    Args:
        lost: the records whose tweets could not be stored.

    """
    gone = queries.deleted(tweets=lost.column("id"), users=lost.column("author_id"))
    for some in (lost.where("id", gone.tweets), lost.where("author_id", gone.users)):
        some.drop(lambda t: f"tweet {t['id']} or its author was deleted")
    lost.remaining().reject(lambda t: f"tweet {t['id']}: no user has the id {t['author_id']}")
