"""A bus that does the work at once: what is published is handled before publish returns."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from feedbus.bus import Bus
from feedbus.bus.arguments import check_many
from feedbus.bus.encoding import columnar
from feedbus.errors import Drop, Reject, Unroutable
from feedbus.handling import Handler, resolve
from feedbus.records import Records
from feedbus.records.loading import load
from feedbus.records.packs import Pack
from feedbus.ring import Ring
from feedbus.topology import Exchange, Queue, Topology

log = logging.getLogger("web")
SLICE = 1_000


class InlineBus(Bus):
    """Calls the handlers that a broker would have called, in the caller's own transaction.

    A record that its handler rejects is logged and left out, as a dead letter would be; any other
    exception ends the work, so that the caller's transaction takes back all of it.
    """

    def __init__(self, topology: Topology) -> None:
        """Find the handlers as a runner would."""
        self._topology = topology
        self._handlers: dict[str, Handler] = {}
        self._rings: dict[str, Ring] = {}

    def publish_many(
        self,
        exchange: str,
        pairs: Iterable[tuple[Mapping[str, Any], str]],
        *,
        causes: Sequence[int] | None = None,  # noqa: ARG002 -- nothing is sent again here
    ) -> int:
        """Handle pairs in order, so many at a time that memory stays small."""
        check_many(exchange, pairs)
        count, left = 0, iter(pairs)
        while run := list(islice(left, SLICE)):
            for pack in columnar(run, uuid.uuid4().hex, first=count):
                self._handle(exchange, pack)
            count += len(run)
        return count

    def publish_columns(
        self,
        exchange: str,
        keys: Sequence[str] | str,
        columns: Mapping[str, Sequence[Any]],
        shared: Mapping[str, Any],
        *,
        causes: Sequence[int] | None = None,  # noqa: ARG002 -- nothing is sent again here
    ) -> int:
        """Handle records given by column."""
        pack = Pack.numbered(uuid.uuid4().hex, keys, shared, columns)
        if len(pack):
            self._handle(exchange, pack)
        return len(pack)

    def _handle(self, exchange: str, pack: Pack) -> None:
        for queue, indexes in self._placed(self._topology.exchange(exchange), pack.keys):
            handler = self._handler(queue)
            for start in range(0, len(indexes), queue.batch.size):
                part = indexes[start : start + queue.batch.size]
                loaded = load(handler.schema, pack.select(part))
                for errors in loaded.errors.values():
                    log.warning("event=invalid queue=%s errors=%s", queue.name, errors)
                if len(loaded.chunk):
                    self._call(queue, handler, Records([loaded.chunk]))

    def _placed(
        self, exchange: Exchange, keys: Sequence[str]
    ) -> Iterable[tuple[Queue, Sequence[int]]]:
        """Pair each queue with the records it would receive, as indexes of keys."""
        queues = [q for q in self._topology.queues.values() if q.exchange == exchange.name]
        found: dict[str, list[int]] = {queue.name: [] for queue in queues}
        for index, key in enumerate(keys):
            receivers = (
                [self._owner(exchange.name, key)]
                if exchange.hashed
                else list(bound(queues, exchange.type, key))
            )
            if not receivers:
                reason = f"no queue for key '{key}' on {exchange.name}"
                raise Unroutable([(f"record {index}", reason)])
            for queue in receivers:
                found[queue.name].append(index)
        return [(queue, found[queue.name]) for queue in queues]

    def _owner(self, exchange: str, key: str) -> Queue:
        if exchange not in self._rings:
            self._rings[exchange] = Ring.of(self._topology.generation(exchange).members)
        return self._topology.consumers[self._rings[exchange].route(key)].queue

    def _handler(self, queue: Queue) -> Handler:
        if queue.handler not in self._handlers:
            self._handlers[queue.handler] = resolve(queue.handler, self._topology.root)
        return self._handlers[queue.handler]

    def _call(self, queue: Queue, handler: Handler, records: Records) -> None:
        if handler.batch and len(records) > 1:
            try:
                handler.call(records, self)
            except (Drop, Reject):
                log.debug("event=replay queue=%s records=%d", queue.name, len(records))
            else:
                return
        for single in records.singles():
            try:
                handler.call(single if handler.batch else single[0], self)
            except Drop as verdict:
                log.info("event=dropped queue=%s reason=%s", queue.name, verdict.reason)
            except Reject as verdict:
                log.warning("event=rejected queue=%s reason=%s", queue.name, verdict.reason)


def bound(queues: Sequence[Queue], exchange_type: str, key: str) -> Iterator[Queue]:
    """Go through the queues that an exchange of that type gives a message of key."""
    for queue in queues:
        patterns = queue.routing_keys or ("",)
        if exchange_type == "topic":
            words = key.split(".")
            receives = any(matches(pattern.split("."), words) for pattern in patterns)
        else:
            receives = exchange_type == "fanout" or key in patterns
        if receives:
            yield queue


def matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Say whether a topic binding takes a key: * is one word, # any number of words."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(matches(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and pattern[0] in {"*", words[0]} and matches(pattern[1:], words[1:])
