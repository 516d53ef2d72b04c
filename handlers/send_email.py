"""send_notification by e-mail: store it for delivery."""

from __future__ import annotations

from feedbus import Bus, Records, handler
from handlers.notifying import store_notifications
from handlers.schemas import SendNotification
from store import queries


@handler(SendNotification, batch=True)
def send_email(records: Records, bus: Bus) -> None:  # noqa: ARG001 -- it publishes nothing
    """Store an e-mail a record, once however often the record comes."""
    store_notifications(records, queries.add_email_notifications, str, "e-mail address")
