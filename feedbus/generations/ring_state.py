"""The state of a ring: the current generation, and the draining generations.

A draining generation is an earlier one whose queues are not all deleted yet. The broker keeps the
state as a message in two queues (state_queues.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from feedbus.hosts.topology_file import TopologyFile
from feedbus.topology import Generation


@dataclass(frozen=True, slots=True)
class RingState:
    """The state of an exchange's ring, as a message on the broker contains it.

    Processes read the state when they connect. Each change of the state writes a new message.

    Attributes:
        current: the newest generation. When the switch to this generation is complete, all new
            messages are routed to its ring.
        draining: earlier generations whose queues are not all deleted yet, the oldest first.
        switch_complete: whether the switch to the current generation is complete. Until then, the
            last generation of `draining` may still get messages.
        serial: the number of this state; each change of the state increases it.
        disordered: whether the broker has restarted and has bound the shards of the current ring
            again, in another order than feedbus. Then keys reach shards that do not own them.
        source: the topology file that declares the current ring, and its host. If several hosts
            have such files, it is the newest of the files. None if it is not known.
        replaced: the rings that were replaced, as digests of their shards and arguments. From
            these, feedbus recognises an older topology file, which would return to a replaced ring
            (older_topology_files.py).
        disordered_draining: the numbers of the draining generations whose rings are disordered.

    """

    current: Generation
    draining: tuple[Generation, ...] = ()
    switch_complete: bool = True
    serial: int = 0
    disordered: bool = False
    source: TopologyFile | None = None
    replaced: tuple[str, ...] = ()
    disordered_draining: tuple[int, ...] = ()

    @property
    def pack_generation(self) -> Generation:
        """The generation for which publishers make packs.

        During a switch, it is the generation before the current one. The switch disconnects this
        generation once, and does not connect it again. So when the broker has returned one of its
        packs, the broker returns all later ones, too. The publisher sends the records of the
        returned packs as single messages, in their order.

        If publishers made packs for the current generation during the switch, the order could be
        lost. The broker would return the packs that arrive before the generation is connected, and
        route the later packs. Then the records of the returned packs would come after later records
        of their keys.

        During the first switch of an exchange, there is no generation before the current one. So
        the packs are for a generation that is never on the broker, and all of them are returned.
        """
        if self.switch_complete:
            return self.current
        return self.draining[-1] if self.draining else self.current.unconnected()

    @property
    def ending(self) -> tuple[Generation, ...]:
        """The draining generations whose queues get no more messages, except fences and probes."""
        # A switch that is not complete concerns only the newest old ring: the switches before it
        # were completed first, and no message is put into the queues of older rings.
        return self.draining if self.switch_complete else self.draining[:-1]


def encode(state: RingState) -> bytes:
    """Return a state as the body of a message, which is JSON.

    Args:
        state: the state.

    """
    # In the message, switch_complete is "settled", and disordered_draining is "scattered". These
    # older names stay, because other versions of feedbus read the message, too.
    return json.dumps(
        {
            "current": _as_json(state.current),
            "draining": [_as_json(old) for old in state.draining],
            "settled": state.switch_complete,
            "serial": state.serial,
            "disordered": state.disordered,
            "source": None if state.source is None else astuple(state.source),
            "replaced": state.replaced,
            "scattered": state.disordered_draining,
        }
    ).encode()


def decode(exchange: str, body: bytes | str) -> RingState | None:
    """Return the state that the body of a message contains; None if the body is not valid.

    Args:
        exchange: the name of the exchange in topology.toml.
        body: the body, as encode() has written it.

    """
    try:
        stored = json.loads(body)
        return RingState(
            current=_generation(exchange, stored["current"]),
            draining=tuple(_generation(exchange, old) for old in stored["draining"]),
            switch_complete=bool(stored["settled"]),
            serial=int(stored["serial"]),
            disordered=bool(stored.get("disordered", False)),
            source=_source(stored.get("source")),
            replaced=tuple(map(str, stored.get("replaced", ()))),
            disordered_draining=tuple(map(int, stored.get("scattered", ()))),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def encode_generation(generation: Generation) -> bytes:
    """Return a generation as the body of a notice, a message that reports a change of the ring.

    The body is JSON: the number of the generation, its members with their weights, and its shape if
    it has one (a digest of arguments). decode_generation() reads the body.

    Args:
        generation: the generation.

    """
    return json.dumps(_as_json(generation)).encode()


def decode_generation(exchange: str, body: bytes | str) -> Generation | None:
    """Return the generation that the body of a notice contains; None if the body is not valid.

    Args:
        exchange: the name of the exchange in topology.toml.
        body: the body, as encode_generation() has written it.

    """
    try:
        return _generation(exchange, json.loads(body))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _as_json(generation: Generation) -> list[Any]:
    shape = [generation.shape] if generation.shape else []
    return [generation.number, generation.members, *shape]


def _source(stored: Sequence[Any] | None) -> TopologyFile | None:
    if stored is None:
        return None
    host, path, digest, modified = stored
    return TopologyFile(str(host), str(path), str(digest), float(modified))


def _generation(exchange: str, stored: Sequence[Any]) -> Generation:
    number, members, *shape = stored
    pairs = tuple((str(name), int(weight)) for name, weight in members)
    return Generation(exchange, pairs, int(number), *map(str, shape))
