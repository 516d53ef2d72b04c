"""Make a Topology of a draft in which nothing is wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from feedbus.config.checks import weights_of
from feedbus.config.declaration import BROKER_URL, STORE_URL, VAR
from feedbus.config.draft import Draft
from feedbus.topology import Batch, Exchange, Ladder, Process, Queue, Topology

SQLITE = "sqlite:///"


def build(draft: Draft, path: Path) -> Topology:
    """Return the topology; var and the files of sqlite URLs are resolved by its folder."""
    loaded = draft.loaded
    root = path.parent
    store = loaded.get("store", {})
    return Topology(
        name=loaded["name"],
        path=path,
        broker_url=_resolve(loaded.get("broker", {}).get("url", BROKER_URL), root),
        store_url=_resolve(store.get("url", STORE_URL), root),
        management_url=loaded.get("broker", {}).get("management"),
        store_prepare=store.get("prepare"),
        exchanges=_freeze(
            {name: Exchange(name, **_frozen(one)) for name, one in loaded["exchanges"].items()}
        ),
        queues=_freeze({name: _queue(name, one) for name, one in draft.queues.items()}),
        processes=_freeze(
            {
                name: Process(name, **_frozen(one))
                for name, one in loaded.get("processes", {}).items()
            }
        ),
        commands=_freeze(loaded.get("commands", {})),
        var=_absolute(root, loaded.get("var", VAR)),
    )


def _queue(name: str, options: Mapping[str, Any]) -> Queue:
    given = _frozen(options)
    given["weights"] = weights_of(dict(options))
    given.pop("weight", None)
    if "batch" in given:
        given["batch"] = Batch(**given["batch"])
    if "retry" in given:
        given["retry"] = _ladder(**given["retry"])
    given.setdefault("single_active_consumer", "shards" in given)
    return Queue(name, **given)


def _ladder(delays_seconds: tuple[float, ...], then: Any = None, *, repeat: bool = False) -> Ladder:
    return Ladder(delays_seconds, "repeat" if repeat else then)


def _frozen(options: Mapping[str, Any]) -> dict[str, Any]:
    frozen = dict(options)
    for key in ("arguments", "environment"):
        if key in frozen:
            frozen[key] = _freeze(frozen[key])
    return frozen


def _freeze(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(mapping))


def _resolve(url: str, root: Path) -> str:
    if not url.startswith(SQLITE):
        return url
    return f"{SQLITE}{_absolute(root, url.removeprefix(SQLITE))}"


def _absolute(root: Path, path: str) -> Path:
    return Path(os.path.abspath(root / path))  # noqa: PTH100 -- resolve() would follow links
