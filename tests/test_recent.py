import json

import pytest

from web.recent import SECONDS, Recent


class Store:
    def __init__(self, *numbers):
        self.tweets = {n: self.tweet(n, f"2026-01-01T00:00:{59 - n:02}.000000Z") for n in numbers}
        self.asked = []
        self.now = 0.0

    def tweet(self, number, moment):
        return {"id": number, "author": "ä", "text": f'"{number}"', "createdAt": moment}

    def load(self, numbers):
        self.asked.append(list(numbers))
        return [self.tweets[number] for number in numbers if number in self.tweets]

    def recent(self, **options):
        return Recent(self.load, lambda: self.now, **options)


@pytest.fixture
def store():
    return Store(1, 2, 3)


def test_tweets_are_shown_by_moment_the_oldest_first_as_the_store_has_them(store):
    shown = store.recent().read([1, 2, 3])
    assert [json.loads(tweet) for tweet in shown] == [store.tweets[n] for n in (3, 2, 1)]


def test_tweets_of_one_moment_are_shown_by_id():
    store = Store()
    store.tweets = {n: store.tweet(n, "2026-01-01T00:00:00.000000Z") for n in (9, 10)}
    assert [json.loads(tweet)["id"] for tweet in store.recent().read([10, 9])] == [9, 10]


def test_what_was_read_is_not_read_again_and_what_is_missing_is(store):
    recent = store.recent()
    first = recent.read([1, 2])
    assert recent.read([2, 1]) == first
    assert len(recent.read([1, 2, 3, 4])) == 3
    assert len(recent.read([4])) == 0
    assert store.asked == [[1, 2], [3, 4], [4]]


def test_a_tweet_that_is_gone_is_shown_for_a_while_and_no_longer(store):
    recent = store.recent()
    assert len(recent.read([1])) == 1
    del store.tweets[1]
    for store.now in (SECONDS - 0.1, SECONDS, 2 * SECONDS - 0.1):
        assert len(recent.read([1])) == 1
    store.now = 2 * SECONDS
    assert recent.read([1]) == []


def test_it_keeps_so_many_and_no_more(store):
    store.tweets = {number: store.tweet(number, "") for number in range(100)}
    recent = store.recent(most=10)
    for number in range(100):
        recent.read([number])
        assert sum(map(len, recent._generations)) <= 20
    recent.read([99, 98, 0])
    assert store.asked[-1] == [0]
