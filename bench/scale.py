"""The sizes of the runs: for the figures, and small ones for tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of graphs and loads.

    Attributes:
        shared: whether one running system serves all runs, which saves the time of starting it.
        wide_followers: the number of followers of the author of the wide graph.
        wide_tweets: of that author, on feedbus and on the database alone.
        wide_tweets_by_message: of that author, on designs of a message a follower.
        million_followers: the number of followers of the author of the largest graph.
        fair_followers: the number of followers of the author of the graph for bench.fairness.
        everyday_users: the number of users, who follow each other by a power law.
        everyday_mean: followers of one of them.
        everyday_tweets: on feedbus.
        everyday_tweets_by_message: on designs of a message a follower.
        peak_tweets: posted over HTTP to find the peak.
        latency_seconds: of load at half that peak.
        long_feed: entries of the longest feed.
        all_feeds: entries of all feeds beside it, itself included.
        reads: of each feed that is read one request after the other.
        serving_seconds: for which 32 clients ask without a pause.
        idle_seconds: for which an idle system is looked at.

    """

    shared: bool
    wide_followers: int
    wide_tweets: int
    wide_tweets_by_message: int
    million_followers: int
    fair_followers: int
    everyday_users: int
    everyday_mean: int
    everyday_tweets: int
    everyday_tweets_by_message: int
    peak_tweets: int
    latency_seconds: float
    long_feed: int
    all_feeds: int
    reads: int
    serving_seconds: float
    idle_seconds: float


FULL = Scale(
    shared=False,
    wide_followers=10_000,
    wide_tweets=30,
    wide_tweets_by_message=1,
    million_followers=1_000_000,
    fair_followers=300_000,
    everyday_users=10_000,
    everyday_mean=20,
    everyday_tweets=2_000,
    everyday_tweets_by_message=300,
    peak_tweets=2_000,
    latency_seconds=15.0,
    long_feed=1_000_000,
    all_feeds=10_000_000,
    reads=2_000,
    serving_seconds=5.0,
    idle_seconds=10.0,
)
SHORT = Scale(
    shared=True,
    wide_followers=300,
    wide_tweets=3,
    wide_tweets_by_message=1,
    million_followers=2_000,
    fair_followers=3_000,
    everyday_users=100,
    everyday_mean=5,
    everyday_tweets=20,
    everyday_tweets_by_message=10,
    peak_tweets=20,
    latency_seconds=0.5,
    long_feed=2_000,
    all_feeds=20_000,
    reads=20,
    serving_seconds=0.3,
    idle_seconds=0.5,
)
