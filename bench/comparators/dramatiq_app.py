"""The same work on Dramatiq: one message for each follower."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from bench.comparators import feeds

dramatiq.set_broker(RabbitmqBroker(url=os.environ["FEEDBUS_BROKER_URL"]))


@dramatiq.actor(queue_name="publish_tweet")
def publish_tweet(tweet: dict[str, Any]) -> None:
    """Send the tweet to each follower."""
    for update in feeds.spread(tweet):
        update_feed.send(update)


@dramatiq.actor(queue_name="update_feed")
def update_feed(update: dict[str, Any]) -> None:
    """Put the tweet into one feed and notify its reader."""
    channel, notification = feeds.add_to_feed(update)
    (send_email if channel == "email" else send_sms).send(notification)


@dramatiq.actor(queue_name="send_email")
def send_email(notification: dict[str, Any]) -> None:
    """Store an e-mail."""
    feeds.store_email(notification)


@dramatiq.actor(queue_name="send_sms")
def send_sms(notification: dict[str, Any]) -> None:
    """Store a short message."""
    feeds.store_sms(notification)


def main() -> None:
    """Publish the JSON list of tweets on standard input."""
    print("ready", flush=True)
    for tweet in json.load(sys.stdin):
        publish_tweet.send(tweet)


if __name__ == "__main__":
    main()
