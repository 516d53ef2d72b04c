"""Seed a graph and post tweets over HTTP, as clients do: requests are repeated safely."""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from feedbus.errors import FeedbusError

SEED = 7
CLIENTS = 4
PATIENCE_SECONDS = 40.0
PAUSE_SECONDS = 0.1
POWER = 0.8
OK, SERVER_ERROR, CONFLICT = 200, 500, 409
TEXT = "the ring turns and every key finds its shard while queues hum in the quiet night"

Progress = Callable[[str, int, int], None]


class Taken(FeedbusError):  # noqa: N818 -- what is the case
    """The server answered 409: the login of a user, or the key of a tweet, is already used."""


class Load:
    """Sends the requests of a demo over HTTP, with a few clients at the same time."""

    def __init__(self, port: int, keep_up: Callable[[], None]) -> None:
        """Create the object; it sends no request yet.

        Args:
            port: the port of the server on this machine.
            keep_up: called each time a request was not answered; starts the system again if it has
                ended.

        """
        self._port = port
        self._keep_up = keep_up
        self._random = random.Random(SEED)  # noqa: S311 -- a demo, the same each time
        self._authors: list[int] = []

    def seed(self, authors: int, followers: int, progress: Progress) -> int:
        """Create authors and their followers; return the number of followers.

        Args:
            authors: the number of authors.
            followers: the number of followers of the first author; the others have fewer and fewer.
            progress: called with the name of what is created, the number so far, and the number in
                total.

        Raises:
            FeedbusError: the server does not answer for PATIENCE_SECONDS, or refuses a request.

        """
        counts = [max(1, round(followers / rank**POWER)) for rank in range(1, authors + 1)]
        for index, count in enumerate(counts):
            author = self._author(f"author{index}")
            body = {"userId": author, "followerLogin": f"fan{index}", "count": count}
            self._post("/api/v1/add-followers", {**body, "async": False})
            self._authors.append(author)
            progress("followers", sum(counts[: index + 1]), sum(counts))
        return sum(counts)

    def _author(self, login: str) -> int:
        """Create an author, and return the id.

        If the login is taken, a number is added to it: probably, an earlier request has created a
        user with this login, but its answer was lost.
        """
        taken = 0
        while True:
            name = f"{login}_{taken}" if taken else login
            body = {"login": name, "email": f"{name}@example.com"}
            try:
                return int(self._post("/api/v2/user", body)["id"])
            except Taken:
                taken += 1

    def post(self, tweets: int, progress: Progress) -> None:
        """Post tweets of random authors; each has a request key, so a repetition is harmless.

        Args:
            tweets: the number of tweets.
            progress: called with the name of what is created, the number so far, and the number in
                total.

        Raises:
            FeedbusError: the server does not answer for PATIENCE_SECONDS, or refuses a request.

        """
        posts = [
            (
                index,
                self._random.choice(self._authors),
                " ".join(self._random.choices(TEXT.split(), k=9)),
            )
            for index in range(tweets)
        ]
        with ThreadPoolExecutor(CLIENTS) as clients:
            running = [clients.submit(self._tweet, *post) for post in posts]
            for done, future in enumerate(as_completed(running), start=1):
                future.result()
                progress("tweets", done, tweets)

    def _tweet(self, index: int, author: int, text: str) -> None:
        body = {"userId": author, "text": text, "async": True}
        self._post("/api/v1/post-tweet", body, {"Idempotency-Key": f"demo-{index}"})

    def _post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Send a POST request, repeat it until it succeeds, and return the body of the answer.

        The request is repeated if there is no answer, because the server may have ended, or if the
        status is 500 or above.

        Args:
            path: the path of the request.
            body: the body, which is sent as JSON.
            headers: headers of the request; None for none.

        Raises:
            Taken: the server answered 409.
            FeedbusError: the server does not answer for PATIENCE_SECONDS, or refuses the request.

        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        reported = "no answer"
        while time.monotonic() < deadline:
            try:
                status, answer = self._exchange(path, body, headers or {})
            except (OSError, http.client.HTTPException, ValueError) as error:
                reported = f"{type(error).__name__}: {error}"
            else:
                if status < OK + 100:
                    return answer
                reported = f"{status}: {answer.get('detail', answer.get('title', ''))}"
                if status == CONFLICT:
                    msg = f"POST {path}: {reported}"
                    raise Taken(msg)
                if status < SERVER_ERROR:
                    break
            self._keep_up()
            time.sleep(PAUSE_SECONDS)
        msg = f"POST {path}: {reported}"
        raise FeedbusError(msg)

    def _exchange(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            sent = {"Content-Type": "application/json", **headers}
            connection.request("POST", path, json.dumps(body), sent)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()
