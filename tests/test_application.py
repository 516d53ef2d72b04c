"""The handlers of the reference application together, as in its topology."""

from __future__ import annotations

from pathlib import Path

from feedbus.testing import TestSystem
from store import queries
from store.models import EmailNotification

TOPOLOGY = Path(__file__).parents[1] / "topology.toml"


def test_a_tweet_reaches_every_follower_and_notifies_those_who_can_be_notified():
    with TestSystem(TOPOLOGY) as system:
        author = queries.create_user("ann", "ann@example.org", None)
        queries.add_followers(author, "fan", 40)
        tweet = queries.create_tweet(author, "Hello").tweet
        for _ in range(2):  # a repeat changes nothing
            system.publish("publish_tweet", tweet, key="publish_tweet", message_id="tweet-1")
        system.run()
        feeds = [queries.read_feed(author + number, 10, None) for number in range(1, 41)]
        assert feeds == [[tweet["id"]]] * 40
        shards = {each.consumer for each in system.handled("update_feed")}
        assert len(shards) > 5
        notified = {each.payload["userId"] for each in system.published("send_notification")}
        assert len(notified) == 40
        assert EmailNotification.select().count() > 0
        assert system.dead_letters() == []
