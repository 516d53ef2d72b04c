"""update_feed: put tweets into feeds, and publish notifications for their readers."""

from __future__ import annotations

from feedbus import Records, handler
from handlers.publish_tweet import set_aside
from handlers.schemas import UpdateFeed
from store import queries

NOTIFICATION = {"userId": "follower_id", "text": "text", "tweetId": "id"}


@handler(UpdateFeed, batch=True)
def update_feed(updates: Records) -> None:
    """Handle updates: put each tweet into its followers' feeds, and publish notifications.

    Records of deleted readers are dropped; records of unknown readers become dead letters.

    Args:
        updates: the records of a batch, as UpdateFeed loads them.

    """
    unsaid = updates.where("channels", {None})
    found = queries.channels_of(unsaid.column("follower_id")) if unsaid else {}
    lost = unsaid.where_not("follower_id", found)
    gone = queries.deleted(users=lost.column("follower_id")).users
    lost.where("follower_id", gone).drop(lambda r: f"reader {r['follower_id']} was deleted")
    lost.remaining().reject(lambda r: f"no user has the id {r['follower_id']}")
    tweets = updates.remaining().group_by("id")
    readers = {tweet: some.column("follower_id") for tweet, some in tweets.items()}
    missing = readers.keys() - queries.add_feed_entries(readers)
    if missing:  # in other systems posted
        ensured = queries.ensure_tweets([tweets[each].first for each in missing])
        queries.add_feed_entries({each: readers[each] for each in ensured})
        set_aside(updates.remaining().where("id", missing - ensured))
    for channel in ("email", "phone"):
        reached = {reader for reader, channels in found.items() if channel in channels}
        said = updates.where_contains("channels", channel)
        for some in (said, unsaid.where("follower_id", reached)):
            some.remaining().publish("send_notification", key=channel, columns=NOTIFICATION)
