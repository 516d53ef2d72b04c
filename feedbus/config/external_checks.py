"""Check exchanges and queues that other systems declare: their names and options.

The checks yield faults: mistakes in the file, each with the path of the wrong value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feedbus.config.draft import INHERITED, RING, Draft, Faults
from feedbus.config.key_paths import KeyPath
from feedbus.config.problems import Fault

KINDS = ("exchange", "queue")
# The keys of two options in the loaded values. In the file, the second one is `name`.
EXTERNAL, NAME = "external", "external_name"
# The management API and rabbitmqctl use this name for the default exchange, whose name is "".
DEFAULT_EXCHANGE = "amq.default"
# The options that an external exchange cannot have, each with the reason. For queues, which also
# inherit options, Draft.misfits() has the same check.
NOT_FOR_EXTERNAL = {
    "pack": "cannot be combined with external = true: other systems read plain messages",
    "arguments": "has no effect with external = true: feedbus never declares the exchange",
}


def check_external(draft: Draft) -> Faults:
    """Yield the faults of exchanges and queues that other systems declare (`external`).

    These are wrong, missing or repeated names, and options that an external exchange cannot have.

    Args:
        draft: the loaded values of topology.toml.

    Yields:
        The path of each wrong value in topology.toml, with its fault: what is wrong.

    """
    for option in (EXTERNAL, "name"):
        if draft.report.has((*INHERITED, option)):
            message = "cannot be inherited: set it in the table of each external queue"
            yield (*INHERITED, option), Fault(message=message, at_key=True)
    prefix = draft.loaded.get("name", "")
    for kind in KINDS:
        owners: dict[str, str] = {}
        for entry, options in draft.loaded.get(f"{kind}s", {}).items():
            path: KeyPath = (f"{kind}s", entry)
            yield from _incomplete(draft, path, kind, options, prefix)
            if kind == "exchange" and options.get(EXTERNAL):
                yield from _misfits(draft, path, options)
            name = options.get(NAME)
            if name is not None:
                yield from _name(path, kind, name, prefix)
                owner = owners.setdefault(name, entry)
                if owner != entry:
                    message = f"'{name}' is already the name in [{kind}s.{owner}]"
                    yield (*path, "name"), Fault(message=message, expected="each name once")


def _incomplete(
    draft: Draft, path: KeyPath, kind: str, options: Mapping[str, Any], prefix: str
) -> Faults:
    """Yield a fault for `external` without `name`, and for `name` without `external`.

    Args:
        draft: the loaded values of the file.
        path: the path of the table of the exchange or queue.
        kind: "exchange" or "queue".
        options: the loaded options of the table.
        prefix: the name of the topology.

    """
    external = options.get(EXTERNAL, False)
    if external and not draft.report.has((*path, "name")):
        expected = f'name = "…" as well: the whole name of the {kind} on the broker'
        yield (*path, EXTERNAL), Fault(message=f"expected {expected}", expected=expected)
    if draft.report.has((*path, "name")) and external is False:
        message = (
            "has no effect without external = true: feedbus makes this name itself, from the name"
            f" of the topology and the name of the table: '{prefix}.{path[-1]}'"
        )
        expected = "external = true as well, or no name"
        yield (
            (*path, "name"),
            Fault(message=f"{message}; expected {expected}", expected=expected, at_key=True),
        )


def _misfits(draft: Draft, path: KeyPath, options: Mapping[str, Any]) -> Faults:
    """Yield a fault for each option that an external exchange cannot have."""
    for option, reason in NOT_FOR_EXTERNAL.items():
        if draft.report.has((*path, option)):
            yield (*path, option), Fault(message=reason, at_key=True)
    if options.get("type") == RING:
        message = "an external exchange cannot have shards: only feedbus can declare a ring"
        yield (*path, "type"), Fault(message=message, expected="'direct', 'topic' or 'fanout'")


def _name(path: KeyPath, kind: str, name: str, prefix: str) -> Faults:
    """Yield a fault if the `name` of an external exchange or queue is not allowed.

    Names of this project's own objects are not allowed, and not the name of the default exchange.

    Args:
        path: the path of the table of the exchange or queue.
        kind: "exchange" or "queue".
        name: the value of the option `name`.
        prefix: the name of the topology, with which the names of the project's own objects begin.

    """
    if prefix and name.startswith(f"{prefix}."):
        expected = (
            f"a name that does not begin with '{prefix}.', because the names of this topology's own"
            " objects begin with it"
        )
        yield (*path, "name"), Fault(expected=expected)
    elif kind == "exchange" and name == DEFAULT_EXCHANGE:
        expected = "another exchange: the default exchange routes by the names of queues"
        yield (*path, "name"), Fault(expected=expected)
