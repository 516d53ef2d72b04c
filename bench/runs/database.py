"""The database without feedbus: one session, set-based SQL, one transaction for each tweet."""

from __future__ import annotations

import time

import psycopg2

from bench import checking, graphs
from bench.stage import SERVERS, Stage
from handlers.send_notification import shorten

TWEET = "INSERT INTO tweet (id, author_id, text, created_at) VALUES (%s, %s, %s, %s)"
FEED = """
    INSERT INTO feed (reader_id, tweet_id) SELECT follower_id, %s FROM follower
    WHERE author_id = %s
"""
EMAILS = """
    INSERT INTO email_notification (source, user_id, address, text)
    SELECT %s, users.id, email, %s FROM follower JOIN users ON users.id = follower_id
    WHERE author_id = %s AND email IS NOT NULL
"""
MESSAGES = """
    INSERT INTO sms_notification (source, user_id, phone, text)
    SELECT %s, users.id, phone, %s FROM follower JOIN users ON users.id = follower_id
    WHERE author_id = %s AND phone IS NOT NULL
"""


def wide(stage: Stage) -> dict[str, float]:
    """Deliver the wide author's tweets."""
    with stage.place(SERVERS, "wide") as place:
        tweets = graphs.tweets("wide", stage.scale.wide_tweets)
        wanted = checking.expect(tweets)
        connection = psycopg2.connect(place.store_url)
        try:
            with connection.cursor() as cursor:
                started = time.monotonic()
                for tweet in tweets:
                    source, author, text = str(tweet.id), tweet.author_id, tweet.text
                    cursor.execute(TWEET, (tweet.id, author, text, 0))
                    cursor.execute(FEED, (tweet.id, author))
                    cursor.execute(EMAILS, (source, text, author))
                    cursor.execute(MESSAGES, (source, shorten(text), author))
                    connection.commit()
                seconds = time.monotonic() - started
        finally:
            connection.close()
        checking.check()
    return {"updates": wanted, "seconds": seconds, "rate": wanted / seconds}
