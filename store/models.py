"""The tables of the reference application, as peewee sees them; migrations create them.

Moments are microseconds since 1970 in UTC: the same integer in every database.
"""

from __future__ import annotations

import peewee

from feedbus.store.peewee import database

LOGIN_CHARACTERS = 64
FOLLOWER_LOGIN_CHARACTERS = LOGIN_CHARACTERS - 7  # then come _ and a number below a million
EMAIL_CHARACTERS = 128
PHONE_CHARACTERS = 11
TWEET_CHARACTERS = 140
EMAIL_TEXT_CHARACTERS = 512
SMS_TEXT_CHARACTERS = 60


class User(peewee.Model):
    """Somebody who tweets, follows, or both, and may be notified by e-mail or SMS."""

    id = peewee.BigAutoField()
    login = peewee.CharField(LOGIN_CHARACTERS, unique=True)
    email = peewee.CharField(EMAIL_CHARACTERS, null=True)
    phone = peewee.CharField(PHONE_CHARACTERS, null=True)
    created_at = peewee.BigIntegerField()

    class Meta:
        """Where it is stored."""

        database = database
        table_name = "users"


class Follower(peewee.Model):
    """That one user follows another: the author's followers lie together, in order."""

    author = peewee.ForeignKeyField(User, on_delete="CASCADE", index=False)
    follower = peewee.ForeignKeyField(User, on_delete="CASCADE", index=False)

    class Meta:
        """Where it is stored."""

        database = database
        table_name = "follower"
        primary_key = peewee.CompositeKey("author", "follower")
        without_rowid = True


class Tweet(peewee.Model):
    """What an author said; request_key distinguishes a repeated request from a second tweet."""

    id = peewee.BigAutoField()
    author = peewee.ForeignKeyField(User, on_delete="CASCADE", index=False)
    text = peewee.CharField(TWEET_CHARACTERS)
    created_at = peewee.BigIntegerField()
    request_key = peewee.TextField(null=True)

    class Meta:
        """Where it is stored."""

        database = database
        table_name = "tweet"
        indexes = ((("author", "request_key"), True),)


class FeedEntry(peewee.Model):
    """That a tweet is in a reader's feed; no foreign keys, whose checks would cost most of a write.

    The key is the order in which a feed is read, so the last entries of a long feed lie together.
    """

    reader_id = peewee.BigIntegerField()
    tweet_id = peewee.BigIntegerField()

    class Meta:
        """Where it is stored."""

        database = database
        table_name = "feed"
        primary_key = peewee.CompositeKey("reader_id", "tweet_id")
        without_rowid = True


class EmailNotification(peewee.Model):
    """An e-mail to a user. The source is what it is about: a tweet, or a message of others.

    The key begins with the source: one tweet's notifications are written next to one another.
    """

    source = peewee.TextField()
    user_id = peewee.BigIntegerField()
    address = peewee.CharField(EMAIL_CHARACTERS)
    text = peewee.CharField(EMAIL_TEXT_CHARACTERS)

    class Meta:
        """Where it is stored."""

        database = database
        table_name = "email_notification"
        primary_key = peewee.CompositeKey("source", "user_id")


class SmsNotification(peewee.Model):
    """A short message to a user's phone, keyed as an e-mail is."""

    source = peewee.TextField()
    user_id = peewee.BigIntegerField()
    phone = peewee.CharField(PHONE_CHARACTERS)
    text = peewee.CharField(SMS_TEXT_CHARACTERS)

    class Meta:
        """Where it is stored."""

        database = database
        table_name = "sms_notification"
        primary_key = peewee.CompositeKey("source", "user_id")


class DeletedUser(peewee.Model):
    """That a user was deleted; triggers write it. What arrives for them later is dropped."""

    id = peewee.BigIntegerField(primary_key=True)

    class Meta:
        """Where it is stored."""

        database = database
        table_name = "deleted_user"


class DeletedTweet(peewee.Model):
    """That a tweet was deleted; triggers write it. A feed update that arrives later is dropped."""

    id = peewee.BigIntegerField(primary_key=True)

    class Meta:
        """Where it is stored."""

        database = database
        table_name = "deleted_tweet"


MODELS = (
    User,
    Follower,
    Tweet,
    FeedEntry,
    EmailNotification,
    SmsNotification,
    DeletedUser,
    DeletedTweet,
)
