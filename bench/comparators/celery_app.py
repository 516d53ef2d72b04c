"""The same work on Celery: one task for each follower, late acknowledgement, prefetch 1."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from celery import Celery
from celery.signals import worker_process_init

from bench.comparators import feeds

NAME = "feeds"  # the prefix of tasks, both in a worker and in a publisher
app = Celery(NAME, broker=os.environ["FEEDBUS_BROKER_URL"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    task_routes={
        f"{NAME}.{task}": {"queue": task}
        for task in ("publish_tweet", "update_feed", "send_email", "send_sms")
    },
    task_create_missing_queues=True,
)


@worker_process_init.connect
def forget_connection(**_: object) -> None:
    """Let each forked process connect by itself."""
    feeds.database.close()


@app.task(name=f"{NAME}.publish_tweet")
def publish_tweet(tweet: dict[str, Any]) -> None:
    """Send the tweet to each follower."""
    for update in feeds.spread(tweet):
        update_feed.delay(update)


@app.task(name=f"{NAME}.update_feed")
def update_feed(update: dict[str, Any]) -> None:
    """Put the tweet into one feed and notify its reader."""
    channel, notification = feeds.add_to_feed(update)
    (send_email if channel == "email" else send_sms).delay(notification)


@app.task(name=f"{NAME}.send_email")
def send_email(notification: dict[str, Any]) -> None:
    """Store an e-mail."""
    feeds.store_email(notification)


@app.task(name=f"{NAME}.send_sms")
def send_sms(notification: dict[str, Any]) -> None:
    """Store a short message."""
    feeds.store_sms(notification)


def main() -> None:
    """Publish the JSON list of tweets on standard input."""
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=3)
    print("ready", flush=True)
    for tweet in json.load(sys.stdin):
        publish_tweet.delay(tweet)


if __name__ == "__main__":
    main()
