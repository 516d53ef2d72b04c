"""send_notification by phone: store a short message for delivery."""

from __future__ import annotations

from feedbus import Bus, Records, handler
from handlers.notifying import store_notifications
from handlers.schemas import SendNotification
from store import queries
from store.models import SMS_TEXT_CHARACTERS


def shorten(text: str) -> str:
    """Return a text that fits, its end replaced by an ellipsis when it was too long."""
    if len(text) <= SMS_TEXT_CHARACTERS:
        return text
    return f"{text[: SMS_TEXT_CHARACTERS - 1]}…"


@handler(SendNotification, batch=True)
def send_sms(records: Records, bus: Bus) -> None:  # noqa: ARG001 -- it publishes nothing
    """Store a short message a record, once however often the record comes."""
    store_notifications(records, queries.add_sms_notifications, shorten, "phone")
