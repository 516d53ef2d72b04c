"""All queries and all writes of the application on its store."""

from store.queries.deletions import Deleted, deleted
from store.queries.feeds import add_feed_entries, read_feed
from store.queries.notifications import add_email_notifications, add_sms_notifications
from store.queries.tweets import (
    KeyReused,
    Posted,
    create_tweet,
    ensure_tweets,
    list_tweets,
    list_tweets_before,
    read_tweets,
)
from store.queries.users import (
    LoginTaken,
    UnknownUser,
    add_followers,
    audiences,
    channels_of,
    create_user,
    followers_of,
    login_of,
    stream_followers,
)

__all__ = [
    "Deleted",
    "KeyReused",
    "LoginTaken",
    "Posted",
    "UnknownUser",
    "add_email_notifications",
    "add_feed_entries",
    "add_followers",
    "add_sms_notifications",
    "audiences",
    "channels_of",
    "create_tweet",
    "create_user",
    "deleted",
    "ensure_tweets",
    "followers_of",
    "list_tweets",
    "list_tweets_before",
    "login_of",
    "read_feed",
    "read_tweets",
    "stream_followers",
]
