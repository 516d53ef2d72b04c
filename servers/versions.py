"""The RabbitMQ versions on this machine, and which of them this run of the tests is to use.

FEEDBUS_RABBITMQ_VERSIONS chooses them: beginnings of versions, separated by commas (`3.10,4.0`),
or `all`; `4.0+khepri_db` is 4.0 with a feature flag enabled. The fixture `rabbitmq` starts the
first of them; `any_rabbitmq` runs a test on each. The default: the oldest that is installed, which
is the distribution's own package, and the newest 4.x, which servers/install.sh unpacks.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

CACHES = (Path("/var/cache"), Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"))
SYSTEM = Path("/")
UNPACKED = tuple(folder / "feedbus-test-servers" for folder in CACHES)


@dataclass(frozen=True, slots=True)
class Version:
    """One RabbitMQ on this machine."""

    number: tuple[int, ...]
    scripts: Path  # Debian's wrapper in /usr/sbin changes the user
    erlang: Path
    flags: tuple[str, ...] = ()  # feature flags to enable

    @property
    def name(self) -> str:
        """The version as text: 3.10.8, or 4.0.5+khepri_db."""
        return "+".join((".".join(map(str, self.number)), *self.flags))

    @property
    def series(self) -> str:
        """The version without its patch level: 3.10."""
        return ".".join(map(str, self.number[:2]))


def roots(server: str) -> list[Path]:
    """Return the folders that may hold a server: the machine's own root, and unpacked ones."""
    unpacked = (each for folder in UNPACKED for each in folder.glob(f"{server}*"))
    return [SYSTEM, *(each for each in unpacked if each.suffix != ".part")]


def installed() -> list[Version]:
    """Return the versions that can be started here, the oldest first."""
    found: dict[tuple[int, ...], Version] = {}
    for root in roots("rabbitmq"):
        for server in root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*"):
            number = re.search(r"-(\d+(?:\.\d+)+)", server.name)
            erlang = root / "usr/lib/erlang/bin"
            if number is None or not (erlang / "erl").exists():
                continue
            version = tuple(map(int, number[1].split(".")))
            found.setdefault(version, Version(version, root / "usr/lib/rabbitmq/bin", erlang))
    return [found[number] for number in sorted(found)]


def find(beginning: str) -> Version | None:
    """Return the newest installed version that begins so, None where there is none."""
    start, *flags = beginning.split("+")
    wanted = tuple(map(int, start.split(".")))
    matching = (one for one in reversed(installed()) if one.number[: len(wanted)] == wanted)
    return next((replace(one, flags=tuple(flags)) for one in matching), None)


def chosen() -> list[str]:
    """Return the beginnings of the versions that this run is to use; they may not be installed.

    Where all servers are required, a 3.x is always among them, so that a missing one is noticed.
    """
    text = os.environ.get("FEEDBUS_RABBITMQ_VERSIONS", "")
    there = [one.series for one in installed()]
    if text == "all":
        return there
    if text:
        return [word.strip() for word in text.split(",")]
    required = os.environ.get("FEEDBUS_REQUIRE_SERVERS") == "1"
    old = [one for one in there if one.startswith("3.")] if required else there
    oldest = next(iter(old), "3")
    newest = next((one for one in reversed(there) if one.startswith("4.")), "4")
    return list(dict.fromkeys((oldest, newest)))


def default() -> Version | None:
    """Return the version that is started where a test does not ask for one."""
    return find(chosen()[0])


if __name__ == "__main__":
    for one in installed():  # for `make test-all`; 4.0 can also keep its definitions in Khepri
        print(one.series, *(["4.0+khepri_db"] if one.series == "4.0" else []))  # noqa: T201
