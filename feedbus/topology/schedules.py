"""Schedules: messages that are published at the times of cron expressions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from feedbus.topology.exchanges import empty_mapping


@dataclass(frozen=True, slots=True)
class Schedule:
    """A table [schedules.NAME]: a message that is published at the times of a cron expression.

    Attributes:
        name: the name in topology.toml.
        cron: the cron expression.
        exchange: the name of the exchange in topology.toml.
        key: the routing key.
        payload: the payload of the message.
        headers: the headers of the message.
        timezone: the IANA name of the expression's time zone.
        catch_up_seconds: if no operations process ran at a time of the expression, the message is
            published later, but at most this late.
    """

    name: str
    cron: str
    exchange: str
    key: str = ""
    payload: Mapping[str, Any] = field(default_factory=empty_mapping)
    headers: Mapping[str, Any] = field(default_factory=empty_mapping)
    timezone: str = "UTC"
    catch_up_seconds: float = 3600.0
