"""Check a commit message, as a commit-msg hook: `python hooks/commit_message.py FILE`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

LONGEST_SUBJECT = 72
SUBJECT = re.compile(r"[a-z][a-z0-9_./ -]*: \S.*")
WRITTEN_BY_GIT = re.compile(r"(Merge|Revert|fixup!|squash!|amend!) ")
EXAMPLE = "bus: import kombu lazily"


def problems(message: str) -> list[str]:
    """Return what is wrong with a commit message, one sentence for each problem.

    Args:
        message: as git gives it to the hook, with comment lines.

    """
    lines = [line.rstrip() for line in message.splitlines() if not line.startswith("#")]
    while lines and not lines[0]:
        del lines[0]
    if not lines:
        return ["the message is empty"]
    subject = lines[0]
    if WRITTEN_BY_GIT.match(subject):
        return []
    found = []
    if len(subject) > LONGEST_SUBJECT:
        found.append(
            f"the subject has {len(subject)} characters; expected at most {LONGEST_SUBJECT}: "
            "move the reason into the body"
        )
    if not SUBJECT.fullmatch(subject):
        found.append(f"the subject does not begin with an area; expected such as '{EXAMPLE}'")
    if subject.endswith("."):
        found.append("the subject ends with a full stop; expected none")
    if len(lines) > 1 and lines[1]:
        found.append("the second line is not empty; expected an empty line before the body")
    return found


def main() -> int:
    """Check the file that git names; return the exit code."""
    if len(sys.argv) != 2:  # noqa: PLR2004 -- the command and its file
        print("usage: python hooks/commit_message.py FILE", file=sys.stderr)
        return 2
    found = problems(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for problem in found:
        print(f"commit message: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
