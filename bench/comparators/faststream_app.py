"""The same work on FastStream: one message for each follower, threads, prefetch 10."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from faststream import FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from bench.comparators import feeds

broker = RabbitBroker(
    os.environ["FEEDBUS_BROKER_URL"], default_channel=Channel(prefetch_count=10), logger=None
)
app = FastStream(broker)
QUEUES = {
    name: RabbitQueue(name, durable=True)
    for name in ("publish_tweet", "update_feed", "send_email", "send_sms")
}


@broker.subscriber(QUEUES["publish_tweet"])
async def publish_tweet(tweet: dict[str, Any]) -> None:
    """Send the tweet to each follower."""
    for update in await asyncio.to_thread(lambda: list(feeds.spread(tweet))):
        await broker.publish(update, QUEUES["update_feed"], persist=True)


@broker.subscriber(QUEUES["update_feed"])
async def update_feed(update: dict[str, Any]) -> None:
    """Put the tweet into one feed and notify its reader."""
    channel, notification = await asyncio.to_thread(feeds.add_to_feed, update)
    queue = QUEUES["send_email" if channel == "email" else "send_sms"]
    await broker.publish(notification, queue, persist=True)


@broker.subscriber(QUEUES["send_email"])
def send_email(notification: dict[str, Any]) -> None:
    """Store an e-mail."""
    feeds.store_email(notification)


@broker.subscriber(QUEUES["send_sms"])
def send_sms(notification: dict[str, Any]) -> None:
    """Store a short message."""
    feeds.store_sms(notification)


async def main() -> None:
    """Publish the JSON list of tweets on standard input."""
    async with RabbitBroker(os.environ["FEEDBUS_BROKER_URL"], logger=None) as publisher:
        for queue in QUEUES.values():
            await publisher.declare_queue(queue)
        print("ready", flush=True)
        for tweet in json.load(sys.stdin):
            await publisher.publish(tweet, QUEUES["publish_tweet"], persist=True)


if __name__ == "__main__":
    asyncio.run(main())
