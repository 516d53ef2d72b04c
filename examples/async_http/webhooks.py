"""Call webhooks, many at the same time; the calls for one customer are made in order."""

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass

import httpx

from feedbus import Message, Reject, Retry, handler, resource


@dataclass
class Event:
    """An event that is sent to the customer's webhook."""

    customer: str
    url: str
    what: str


@resource
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """Open one client for each process; a test replaces it."""
    async with httpx.AsyncClient(timeout=10) as client:
        yield client


@handler
async def call(event: Event, message: Message, http: httpx.AsyncClient) -> None:
    """Send an event; the id lets the customer recognise a repeated call."""
    headers = {"Idempotency-Key": message.message_id}
    answer = await http.post(event.url, json=asdict(event), headers=headers)
    if answer.is_server_error:
        raise Retry(f"{event.url} answers {answer.status_code}")
    if answer.is_client_error:
        raise Reject(f"{event.url} answers {answer.status_code}")
