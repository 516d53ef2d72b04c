"""The peewee models of the reference application's tables; migrations create the tables.

Times are microseconds since 1970 in UTC: the same integer in every database.
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
    """A row of the table `users`: a user, who can write tweets and follow others.

    Notifications reach the user by e-mail or SMS.
    """

    id = peewee.BigAutoField()
    login = peewee.CharField(LOGIN_CHARACTERS, unique=True)
    email = peewee.CharField(EMAIL_CHARACTERS, null=True)
    phone = peewee.CharField(PHONE_CHARACTERS, null=True)
    created_at = peewee.BigIntegerField()

    class Meta:
        """peewee's settings of the model: its database and its table."""

        database = database
        table_name = "users"


class Follower(peewee.Model):
    """A row of the table `follower`: one user follows another.

    The rows of an author's followers are stored together, in the order of their ids.
    """

    author = peewee.ForeignKeyField(User, on_delete="CASCADE", index=False)
    follower = peewee.ForeignKeyField(User, on_delete="CASCADE", index=False)

    class Meta:
        """peewee's settings of the model: its database, its table and its key."""

        database = database
        table_name = "follower"
        primary_key = peewee.CompositeKey("author", "follower")
        without_rowid = True


class Tweet(peewee.Model):
    """A row of the table `tweet`: a tweet of an author.

    The column request_key contains the key of the request that posted the tweet. A repetition of
    the request has the same key, so it adds no second tweet.
    """

    id = peewee.BigAutoField()
    author = peewee.ForeignKeyField(User, on_delete="CASCADE", index=False)
    text = peewee.CharField(TWEET_CHARACTERS)
    created_at = peewee.BigIntegerField()
    request_key = peewee.TextField(null=True)

    class Meta:
        """peewee's settings of the model: its database, its table and its indexes."""

        database = database
        table_name = "tweet"
        indexes = ((("author", "request_key"), True),)


class FeedEntry(peewee.Model):
    """A row of the table `feed`: a tweet in a reader's feed.

    The table has no foreign keys: checking them would cost too much. The primary key has the order
    in which a feed is read. So the last entries of a feed are stored together.
    """

    reader_id = peewee.BigIntegerField()
    tweet_id = peewee.BigIntegerField()

    class Meta:
        """peewee's settings of the model: its database, its table and its key."""

        database = database
        table_name = "feed"
        primary_key = peewee.CompositeKey("reader_id", "tweet_id")
        without_rowid = True


class EmailNotification(peewee.Model):
    """A row of the table `email_notification`: an e-mail to a user.

    The column source identifies the cause of the e-mail: a tweet, or a message of another system.
    The primary key begins with the source, so the notifications of one tweet are stored together.
    """

    source = peewee.TextField()
    user_id = peewee.BigIntegerField()
    address = peewee.CharField(EMAIL_CHARACTERS)
    text = peewee.CharField(EMAIL_TEXT_CHARACTERS)

    class Meta:
        """peewee's settings of the model: its database, its table and its key."""

        database = database
        table_name = "email_notification"
        primary_key = peewee.CompositeKey("source", "user_id")


class SmsNotification(peewee.Model):
    """A row of the table `sms_notification`: a short message to a user's phone.

    The column source identifies the cause of the short message: a tweet, or a message of another
    system. The primary key begins with the source, so the notifications of one tweet are stored
    together.
    """

    source = peewee.TextField()
    user_id = peewee.BigIntegerField()
    phone = peewee.CharField(PHONE_CHARACTERS)
    text = peewee.CharField(SMS_TEXT_CHARACTERS)

    class Meta:
        """peewee's settings of the model: its database, its table and its key."""

        database = database
        table_name = "sms_notification"
        primary_key = peewee.CompositeKey("source", "user_id")


class DeletedUser(peewee.Model):
    """A row of the table `deleted_user`: a user who was deleted; triggers write it.

    Messages for this user are dropped.
    """

    id = peewee.BigIntegerField(primary_key=True)

    class Meta:
        """peewee's settings of the model: its database and its table."""

        database = database
        table_name = "deleted_user"


class DeletedTweet(peewee.Model):
    """A row of the table `deleted_tweet`: a tweet that was deleted; triggers write it.

    Later messages that put the tweet into feeds are dropped.
    """

    id = peewee.BigIntegerField(primary_key=True)

    class Meta:
        """peewee's settings of the model: its database and its table."""

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
