"""The form of logins: two ways to type the same login name the same user.

Letters with marks can be written in two ways that look the same. So logins are stored in Unicode's
normalization form C. Invisible characters, and characters that change the direction of text, are
refused. Upper and lower case are different.
"""

from __future__ import annotations

import unicodedata

# Blanks, control characters (Cc), format characters (Cf), and letters and marks that Unicode has as
# ignorable when shown. As ranges, since the OpenAPI document has them as a pattern, and no class of
# characters is the same set in every language; the last of them as themselves, as there is no
# escape for them that all know.
REFUSED = (
    r"\s\x00-\x20\x7f-\xa0\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160"
    r"\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
PATTERN = rf"^[^{REFUSED}]+$"
EXPECTED = "a text without blanks, control characters and invisible characters"


def normalized(login: str) -> str:
    """Return a login in the form in which it is stored and compared: normalization form C."""
    return unicodedata.normalize("NFC", login)
