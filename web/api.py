"""The API's routes: users, followers, tweets and feeds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import bottle

from feedbus.errors import Retry
from feedbus.inline import InlinePool, Project
from feedbus.logs import EventLog
from feedbus.operations.responses import (
    BAD_REQUEST,
    CONFLICT,
    JSON,
    NOT_FOUND,
    answer,
    problem,
    typed,
)
from feedbus.printable import one_line
from feedbus.store import OutboxRow
from feedbus.store.relay import Relay
from feedbus.topology import Topology
from store import queries
from web import schemas
from web.bodies import load, read_body, read_query
from web.recent import Recent

events = EventLog("web")

USER, FOLLOWERS, TWEET = schemas.UserBody(), schemas.FollowersBody(), schemas.TweetBody()
USER_PATH, FEED, PAGE = schemas.UserPath(), schemas.FeedQuery(), schemas.PageQuery()
USER_ID, READER_ID = "userId", "id"
KEY_HEADER = "Idempotency-Key"
KEY = re.compile(rf"[!-~]{{1,{schemas.KEY_CHARACTERS}}}")


class Api:
    """The functions that answer the requests of each route; the server has one Api object.

    Each method reads the current request of Bottle, and returns the body of the answer. It raises a
    bottle.HTTPResponse with a problem document (RFC 9457) if the request is wrong.
    """

    def __init__(self, topology: Topology, relay: Relay) -> None:
        """Create the object.

        Args:
            topology: the topology whose handlers can run within a request.
            relay: publishes messages for the work that is not done within the request; it also has
                the store.

        """
        self._relay = relay
        self._store = relay.store
        self._systems = InlinePool(Project(topology), self._store)
        self._recent = Recent()

    def create_user(self) -> bytes:
        """Answer POST /api/v2/user: create a user, and return the id as JSON, with status 201.

        Raises:
            bottle.HTTPResponse: with status 400 if the body is wrong, or 409 if the login is taken.

        """
        user = read_body(USER)
        try:
            made = queries.create_user(user["login"], user.get("email"), user.get("phone"))
        except queries.LoginTaken:
            errors = {"login": ["There is a user of this login."]}
            raise problem(CONFLICT, "The login is taken; choose another.", errors) from None
        return answer({"id": made}, 201)

    def add_followers(self) -> bytes:
        """Answer POST /api/v1/add-followers: let users with numbered logins follow a user.

        Followers that do not exist are created. With `async = false`, this is done before the
        answer 200, which has the number of new followers. Otherwise, a message is published, whose
        handler does this later, and the answer is 202.

        Raises:
            bottle.HTTPResponse: with status 400 if the body is wrong, or 404 for an unknown user.

        """
        body = read_body(FOLLOWERS)
        author, login, count = body["user_id"], body["follower_login"], body["count"]
        try:
            if not body["asynchronous"]:
                return answer({"created": queries.add_followers(author, login, count)})
            with self._store.transaction():
                queries.login_of(author)
                payload = {"userId": author, "followerLogin": login, "count": count}
                row = self._store.outbox.put("add_followers", payload, "add_followers")
        except queries.UnknownUser as error:
            raise nobody(error, USER_ID) from None
        self._relay.publish([row])
        return answer({"accepted": True}, 202)

    def post_tweet(self) -> bytes:
        """Answer POST /api/v1/post-tweet: store a tweet, and put it into the followers' feeds.

        With `async = false`, the feeds are filled before the answer 201. Otherwise, or if this
        fails, a message is published to fill them, and the answer is 202. The message is stored in
        the transaction of the tweet.

        Raises:
            bottle.HTTPResponse: with status 400 if the body is wrong, 404 for an unknown user, or
                409 if the key of the request belongs to another tweet.

        """
        key = request_key(bottle.request.environ)
        body = read_body(TWEET)
        try:
            with self._store.transaction():
                posted = queries.create_tweet(body["user_id"], body["text"], key)
                # A repeat puts it again: its sender may not know whether the first went well.
                row = self._store.outbox.put(
                    "publish_tweet",
                    posted.tweet,
                    "publish_tweet",
                    message_id=f"tweet-{posted.tweet['id']}",
                )
        except queries.UnknownUser as error:
            raise nobody(error, USER_ID) from None
        except queries.KeyReused:
            errors = {KEY_HEADER: ["An earlier request with this key had another text."]}
            raise problem(CONFLICT, "Another tweet needs another key.", errors) from None
        made = {"id": posted.tweet["id"]}
        if not body["asynchronous"] and self._fill_feeds(row, posted.tweet):
            return answer(made, 201)
        self._relay.publish([row])
        return answer(made, 202)

    def get_feed(self, user: str) -> bytes:
        """Answer GET /api/v1/get-feed/USER: return the latest tweets of a feed, oldest first.

        The query can limit their number, and select the tweets before a given tweet.

        Args:
            user: the id of the user, as text from the path.

        Raises:
            bottle.HTTPResponse: with status 400 if the query is wrong, or 404 for an unknown user.

        """
        query = read_query(FEED)
        count = query["count"]
        reader = load(USER_PATH, {"id": user}, "The path does not contain the id of a user.")[
            "user_id"
        ]
        try:
            found = queries.read_feed(reader, count, query["before"])
            tweets = self._recent.read(found)
        except queries.UnknownUser as error:
            raise nobody(error, READER_ID) from None
        cursor = str(found[-1]).encode() if len(found) == count else b"null"
        return typed(JSON, b'{"tweets":[' + b",".join(tweets) + b'],"next":' + cursor + b"}")

    def get_tweets(self) -> bytes:
        """Answer GET /api/v1/get-tweets: return a page of all tweets, newest first.

        The query selects the page, or the tweets before a given tweet.

        Raises:
            bottle.HTTPResponse: with status 400 if the query is wrong.

        """
        query = read_query(PAGE)
        count, before = query["per_page"], query["before"]
        if before is None:
            tweets = queries.list_tweets(query["page"], count)
        else:
            tweets = queries.list_tweets_before(before, count)
        cursor = tweets[-1]["id"] if len(tweets) == count else None
        return answer({"tweets": tweets, "next": cursor})

    def _fill_feeds(self, row: OutboxRow, tweet: Mapping[str, Any]) -> bool:
        """Fill the feeds of a tweet's readers within the request: run the consumers' handlers.

        Args:
            row: the row of the outbox with the message that fills the feeds. It is removed if no
                handler fails.
            tweet: the payload of the message.

        Returns:
            False if a handler has failed. Then the message has to be published, so that the
            consumers fill the feeds.

        """
        try:
            with self._store.transaction():
                self._handle_all(row, tweet)
                self._store.outbox.remove([row.id])
        except Exception as error:  # noqa: BLE001 -- a handler may raise anything; the tweet is stored
            events.warning(
                "left_to_consumers",
                "the handlers failed within the request, so its message is published, and the"
                " consumers handle it",
                row=row.id,
                error=one_line(error),
            )
            return False
        return True

    def _handle_all(self, row: OutboxRow, tweet: Mapping[str, Any]) -> None:
        """Run the handlers of a message, and of the messages that these handlers publish.

        The handlers run in the caller's transaction. A rejected record is only logged.

        Args:
            row: the row of the outbox with the message.
            tweet: the payload of the message.

        Raises:
            Retry: a handler has failed, and may succeed later.

        """
        with self._systems.system() as system:
            system.bus.publish(row.exchange, tweet, row.key, message_id=row.message_id)
            system.handle_ready()
            if system.is_empty():
                return
            if system.retries():
                msg = f"{system.retries()} records have to be tried again"
                raise Retry(msg)
            for letter in system.dead_letters():
                events.warning(
                    "rejected",
                    "a handler rejected a record within a request; the record is not handled again",
                    queue=letter.queue,
                    reason=letter.reason,
                )


def install(app: bottle.Bottle, topology: Topology, relay: Relay) -> None:
    """Add the routes of the API to an application.

    Args:
        app: the application.
        topology: the topology whose handlers can run within a request.
        relay: publishes the messages that requests store; it also has the store.

    """
    api = Api(topology, relay)
    app.route("/api/v2/user", "POST", api.create_user)
    app.route("/api/v1/add-followers", "POST", api.add_followers)
    app.route("/api/v1/post-tweet", "POST", api.post_tweet)
    app.route("/api/v1/get-feed/<user>", "GET", api.get_feed)
    app.route("/api/v1/get-tweets", "GET", api.get_tweets)


def request_key(environ: Mapping[str, Any]) -> str | None:
    """Return the header Idempotency-Key, which is the same in a request and its repetitions.

    Args:
        environ: the WSGI environment of the request.

    Returns:
        The key; None if the request has none.

    Raises:
        bottle.HTTPResponse: with status 400, because the key is empty or too long, or has a
            character that is not a visible ASCII character.

    """
    key: str | None = environ.get("HTTP_IDEMPOTENCY_KEY")
    if key is None or KEY.fullmatch(key):
        return key
    expected = f"Expected 1 to {schemas.KEY_CHARACTERS} visible ASCII characters."
    raise problem(BAD_REQUEST, f"The header {KEY_HEADER} is not valid.", {KEY_HEADER: [expected]})


def nobody(error: queries.UnknownUser, field: str) -> bottle.HTTPResponse:
    """Return the response 404, with a problem document, for a user that does not exist.

    Args:
        error: the error, which has the id of the user.
        field: the name of the field of the request with this id.

    """
    return problem(NOT_FOUND, "There is no such user.", {field: [f"No user {error.user_id}."]})
