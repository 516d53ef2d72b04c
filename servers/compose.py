"""The content of docker-compose.yml with its variables replaced, to run it without containers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[1]
COMPOSE = PROJECT / "docker-compose.yml"
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


class Unset(Exception):  # noqa: N818 -- what is the case
    """A variable that has to be set is not; the text is the file's own."""


def filled(text: str, variables: Mapping[str, str]) -> str:
    """Put variables into a text as Compose does: ${A}, ${A:-default} and ${A:?why}."""

    def value(found: re.Match[str]) -> str:
        name, how, rest = found.groups()
        if variables.get(name):
            return variables[name]
        if how == "?":
            raise Unset(rest)
        return rest or ""

    return VARIABLE.sub(value, text)


@dataclass(frozen=True, slots=True)
class Compose:
    """The services of the file."""

    services: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Compose:
        """Read the file with these variables set."""
        return cls(yaml.safe_load(filled(COMPOSE.read_text(), variables))["services"])

    def environment(self, service: str, **hosts: str) -> dict[str, str]:
        """Return a service's environment, each "host:port" of the network replaced."""
        environment = self.services[service]["environment"]
        return {name: _moved(text, hosts) for name, text in environment.items()}

    def command(self, service: str) -> list[str]:
        """Return the words of a service's command."""
        return list(self.services[service]["command"])

    def health(self, service: str) -> list[str]:
        """Return the words of a service's health check."""
        kind, *words = self.services[service]["healthcheck"]["test"]
        assert kind == "CMD", kind
        return words


def _moved(text: str, hosts: Mapping[str, str]) -> str:
    for host, address in hosts.items():
        text = re.sub(rf"\b{host}:\d+", address, text)
    return text
