"""The store of the usual design: a feed is one JSON text, read, changed and written back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import peewee
from playhouse.db_url import connect

from handlers.schemas import PublishTweet, SendNotification, UpdateFeed
from handlers.send_notification import shorten

database = connect(os.environ["FEEDBUS_DATABASE_URL"])
TWEET, UPDATE, NOTIFICATION = PublishTweet(), UpdateFeed(), SendNotification()


class Model(peewee.Model):
    """The common base of the tables."""

    class Meta:
        """The database of the tables."""

        database = database


class User(Model):
    """A person who may be notified by e-mail or phone."""

    id = peewee.BigAutoField()
    login = peewee.CharField()
    email = peewee.CharField(null=True)
    phone = peewee.CharField(null=True)

    class Meta:
        """The name of the table."""

        table_name = "users"


class Follower(Model):
    """A follower of a user."""

    author_id = peewee.BigIntegerField()
    follower_id = peewee.BigIntegerField()

    class Meta:
        """The name of the table."""

        primary_key = peewee.CompositeKey("author_id", "follower_id")


class JsonFeed(Model):
    """A reader's feed."""

    reader_id = peewee.BigIntegerField(primary_key=True)
    tweets = peewee.TextField()

    class Meta:
        """The name of the table."""

        table_name = "json_feed"


class EmailNotification(Model):
    """An e-mail to be sent."""

    source = peewee.TextField()
    user_id = peewee.BigIntegerField()
    address = peewee.CharField()
    text = peewee.CharField()

    class Meta:
        """The name of the table."""

        table_name = "email_notification"
        primary_key = peewee.CompositeKey("source", "user_id")


class SmsNotification(Model):
    """A short message to be sent."""

    source = peewee.TextField()
    user_id = peewee.BigIntegerField()
    phone = peewee.CharField()
    text = peewee.CharField()

    class Meta:
        """The name of the table."""

        table_name = "sms_notification"
        primary_key = peewee.CompositeKey("source", "user_id")


def spread(tweet: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return an update_feed message for each follower of a tweet's author."""
    author_id = TWEET.load(tweet)["author_id"]
    followers = Follower.select(Follower.follower_id).where(Follower.author_id == author_id)
    for (follower_id,) in followers.tuples().iterator():
        yield {**tweet, "followerId": follower_id}


def add_to_feed(update: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Put a tweet into a feed; return the channel and the message of its notification."""
    reader_id = UPDATE.load(update)["follower_id"]
    entry = {name: update[name] for name in ("id", "author", "text", "createdAt")}
    with database.atomic():
        reader = User.get_by_id(reader_id)
        feed = JsonFeed.select().where(JsonFeed.reader_id == reader_id).for_update().get_or_none()
        if feed is None:
            JsonFeed.create(reader_id=reader_id, tweets=json.dumps([entry]))
        else:
            tweets = json.loads(feed.tweets)
            if all(there["id"] != entry["id"] for there in tweets):
                feed.tweets = json.dumps([*tweets, entry])
                feed.save()
    channel = "email" if reader.email is not None else "phone"
    return channel, {"userId": reader_id, "text": update["text"], "tweetId": update["id"]}


def store_email(notification: Mapping[str, Any]) -> None:
    """Store an e-mail for delivery."""
    loaded = NOTIFICATION.load(notification)
    with database.atomic():
        user = User.get_by_id(loaded["user_id"])
        EmailNotification.insert(
            source=str(loaded["tweet_id"]),
            user_id=user.id,
            address=user.email,
            text=loaded["text"],
        ).on_conflict_ignore().execute()


def store_sms(notification: Mapping[str, Any]) -> None:
    """Store a short message for delivery."""
    loaded = NOTIFICATION.load(notification)
    with database.atomic():
        user = User.get_by_id(loaded["user_id"])
        SmsNotification.insert(
            source=str(loaded["tweet_id"]),
            user_id=user.id,
            phone=user.phone,
            text=shorten(loaded["text"]),
        ).on_conflict_ignore().execute()
