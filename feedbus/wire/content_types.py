"""Functions on content types: remove parameters, find the charset, check if a codec is needed."""

from __future__ import annotations

BYTES = "application/octet-stream"


def bare_type(content_type: object) -> str:
    """Return a content type without its parameters, in lower case; "" for None."""
    return str(content_type or "").partition(";")[0].strip().lower()


def is_known(content_type: str) -> bool:
    """Whether feedbus can encode a payload with this content type without a codec of the project.

    The known content types are JSON, types that end with "+json", text/* and
    application/octet-stream.
    """
    bare = bare_type(content_type)
    return bare.startswith("text/") or bare in {BYTES, "application/json"} or bare.endswith("+json")


def charset_of(content_type: str | None) -> str | None:
    """Return the parameter `charset` of a content type, such as "utf-8"; None if it has none."""
    for parameter in (content_type or "").split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"')
    return None
