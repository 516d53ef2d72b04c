"""What a planted fault replaces."""

from __future__ import annotations

from typing import Any

Change = tuple[Any, str, Any]  # the owner, the name of its attribute, and the value instead
