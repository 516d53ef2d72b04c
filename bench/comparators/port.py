"""The usual design on Kombu: ten shards, prefetch 1, a message and a transaction per follower.

`python -m bench.comparators.port CONSUMER` runs one consumer until it is stopped;
`python -m bench.comparators.port publish` publishes the JSON list of tweets on standard input.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from kombu import Connection, Consumer, Exchange, Queue
from kombu.mixins import ConsumerProducerMixin

from bench.comparators import SHARDS, feeds

PUBLISH_TWEET = Exchange("publish_tweet", type="direct")
UPDATE_FEED = Exchange("update_feed", type="x-consistent-hash")
SEND_NOTIFICATION = Exchange("send_notification", type="topic")
QUEUES = {
    "publish_tweet": Queue("publish_tweet", PUBLISH_TWEET, routing_key="publish_tweet"),
    **{
        f"update_feed_{shard}": Queue(f"update_feed_{shard}", UPDATE_FEED, routing_key="1")
        for shard in range(SHARDS)
    },
    "send_email": Queue("send_email", SEND_NOTIFICATION, routing_key="email"),
    "send_sms": Queue("send_sms", SEND_NOTIFICATION, routing_key="phone"),
}


class Worker(ConsumerProducerMixin):
    """Consumes one queue."""

    def __init__(self, connection: Connection, name: str) -> None:
        """Consume the queue of that name."""
        self.connection = connection
        self._queue = QUEUES[name]
        self._handle: Callable[[dict[str, Any]], None] = {
            "publish_tweet": self.publish_tweet,
            "send_email": feeds.store_email,
            "send_sms": feeds.store_sms,
        }.get(name, self.update_feed)

    def get_consumers(self, consumer: type[Consumer], channel: Any) -> Sequence[Consumer]:  # noqa: ARG002 -- kombu's signature
        """Return the only consumer."""
        return [consumer([self._queue], callbacks=[self.on_message], prefetch_count=1)]

    def on_message(self, body: dict[str, Any], message: Any) -> None:
        """Handle a message, then acknowledge it."""
        self._handle(body)
        message.ack()

    def publish_tweet(self, tweet: dict[str, Any]) -> None:
        """Send the tweet to each follower."""
        for update in feeds.spread(tweet):
            self.producer.publish(
                update, exchange=UPDATE_FEED, routing_key=str(update["followerId"])
            )

    def update_feed(self, update: dict[str, Any]) -> None:
        """Put the tweet into one feed and notify its reader."""
        channel, notification = feeds.add_to_feed(update)
        self.producer.publish(notification, exchange=SEND_NOTIFICATION, routing_key=channel)


def publish(connection: Connection) -> None:
    """Publish the tweets from standard input, as the web application does."""
    for queue in QUEUES.values():
        queue(connection.default_channel).declare()
    with connection.Producer() as producer:
        print("ready", flush=True)
        for tweet in json.load(sys.stdin):
            producer.publish(tweet, exchange=PUBLISH_TWEET, routing_key="publish_tweet")


def main() -> None:
    """Run the consumer that the command line names, or publish."""
    with Connection(os.environ["FEEDBUS_BROKER_URL"]) as connection:
        if sys.argv[1] == "publish":
            publish(connection)
        else:
            Worker(connection, sys.argv[1]).run()


if __name__ == "__main__":
    main()
