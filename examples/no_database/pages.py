"""Effects that may be repeated need no database: the same page becomes the same file."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from feedbus import Message, handler, resource

Fetch = Callable[[str], bytes]


@dataclass
class Page:
    """A page to fetch and store."""

    url: str


@resource
def web() -> Fetch:
    """Return a function that fetches a page; a test replaces this resource."""

    def fetch(url: str) -> bytes:
        with urlopen(url, timeout=10) as answer:  # noqa: S310 -- whoever publishes chooses the URL
            body: bytes = answer.read()
            return body

    return fetch


@handler
def fetch(page: Page, message: Message, web: Fetch) -> None:
    """Write a page to a file named after its URL; a repeated message writes the same file."""
    file = Path("pages") / hashlib.sha256(page.url.encode()).hexdigest()[:16]
    file.parent.mkdir(exist_ok=True)
    half = file.with_suffix(f".{message.message_id}")
    half.write_bytes(web(page.url))
    half.replace(file)
