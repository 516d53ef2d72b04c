"""Servers that tests share; each is private, on loopback, and ended with the session."""

from __future__ import annotations

from tests.servers.fixtures import (  # noqa: F401 -- fixtures
    any_rabbitmq,
    empty_store_url,
    postgres,
    rabbitmq,
    rabbitmq4,
    rabbitmq_nodes,
    store_url,
)
