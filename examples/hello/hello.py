"""One queue and one handler."""

import logging
from dataclasses import dataclass

from feedbus import handler

log = logging.getLogger(__name__)


@dataclass
class Greeting:
    """One message."""

    name: str


@handler
def greet(greeting: Greeting) -> None:
    """Greet in the log of the consumer."""
    log.info("hello %s", greeting.name)
