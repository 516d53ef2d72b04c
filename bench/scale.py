"""The sizes of the runs: for the figures, and small ones for tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of graphs and loads.

    Attributes:
        shared: whether one running system serves all runs, which saves the time of starting it.
        wide_followers: the number of followers of the author of the wide graph.
        wide_tweets: the tweets of that author, on feedbus and on only the database.
        wide_tweets_by_message: the same, on designs with one message for each follower.
        million_followers: the number of followers of the author of the largest graph.
        fair_followers: the number of followers of the author of the graph for bench.fairness.
        everyday_users: the number of users, who follow each other by a power law.
        everyday_mean: the mean number of followers of a user.
        everyday_tweets: the number of tweets on feedbus.
        everyday_tweets_by_message: the same, on designs with one message for each follower.
        peak_tweets: the number of tweets that are posted over HTTP to find the peak.
        latency_seconds: the duration of the load at half of that peak.
        long_feed: the number of entries of the longest feed.
        all_feeds: the number of entries of all feeds, including the longest one.
        reads: the number of reads of each feed, one request after the other.
        serving_seconds: the time during which 32 clients send requests without a pause.
        idle_seconds: the time during which an idle system is measured.

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
