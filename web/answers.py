"""Write what routes return."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import bottle

JSON = "application/json"
encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def answer(fields: Mapping[str, Any], status: int = 200) -> bytes:
    """Return a JSON response's body, with its status and type set."""
    bottle.response.status = status
    return typed(JSON, encode(fields).encode())


def typed(media_type: str, body: bytes) -> bytes:
    """Return a response's body, with its type set."""
    bottle.response.content_type = media_type
    return body
