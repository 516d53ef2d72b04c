"""A network with faults: late, lost and reordered answers, and cuts.

What a client sends on one connection arrives in order, in portions; connections overtake each
other. A confirm may come late, alone, or after later ones. An acknowledgement may still be on its
way when its connection is cut, and is lost then. A cut may come before or after the broker has
carried out what was asked, so the client does not know which.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tests.simulation.scheduler import SECONDS, Process, Scheduler

CUT_SHARE = 0.02  # of the portions of messages
APPLY_CUT_SHARE = 0.15  # of those of an apply, which sends few
PROMPT_ANSWERS = 0.7  # of the confirms that come back together
LINGER_SHARE = 0.3  # of the changes of exchanges, queues or bindings

APPLY = "apply"  # the name of the process that changes the number of shards

MessageKey = tuple[str | bytes, str]  # the message id, or the body without one; the routing key


@dataclass(frozen=True, slots=True)
class Answer:
    """What the broker has done with one of several messages that were sent together.

    Attributes:
        message: the amqp Message.
        is_accepted: whether no full queue has refused it; None if this is not known, because the
            connection was cut.

    """

    message: Any
    is_accepted: bool | None


@dataclass(eq=False)
class Sending:
    """What is to happen when a process sends its next messages, on any connection.

    Attributes:
        is_cut: whether the connection is cut when a part of the messages is sent.
        is_slow: whether the second part of several messages is sent later.
        is_refused: whether the broker refuses all of them, because their queue has no leader.
        after: called when the messages are sent.

    """

    is_cut: bool = False
    is_slow: bool = False
    is_refused: bool = False
    after: Callable[[], None] | None = None


class Link(Protocol):
    """A connection of a client, as the network knows it."""

    connected: bool
    owner: int | None
    process: Process | None

    def cut(self, why: str) -> None:
        """End the connection."""

    def cancel(self, consumer: int) -> None:
        """End a subscription of the connection."""


class Network:
    """What happens between the processes and the broker.

    Attributes:
        divided_sendings: the answers to messages that were sent together, in their order, if a full
            queue has refused some of them, or may have refused them, while later ones were on their
            way.
        slow_senders: how many processes have sent a part of their packs, and send others later.
        awaits_slow_sender: whether the next process that sends several packs becomes such a
            sender.
        awaits_one_shard: whether it must have packs for the same shard in both parts. Otherwise a
            full queue must have refused a message of the first part.
        slow_queues: by the name of a queue, until when its deliveries stay on their way.
        changes: how often processes have deleted queues of rings, completed switches of rings, and
            moved waiting records since the last switch; and how many rows of the outbox their
            programs have published.
        sending: by process, what is to happen when it sends its next messages.
        meet: called before each request to the broker, portion of messages and acknowledgement.
        lost: processes whose host loses its power: the broker notices their end late.
        kept: the queue, the content type and the body of each message that the broker keeps for a
            killed process, until it notices that the process sends no heartbeats.
        accepted_count: how many messages the broker has accepted.

    """

    def __init__(self, scheduler: Scheduler) -> None:
        """Be without faults until `faulty` is set."""
        self.scheduler = scheduler
        self.faulty = False
        self.down = False
        self.links: list[Link] = []
        self.refused_acknowledgements: list[str] = []
        self.divided_sendings: list[list[Answer]] = []
        self.slow_senders = 0
        self.awaits_slow_sender = self.awaits_one_shard = False
        self.slow_queues: dict[str, int] = {}
        self.changes: Counter[str] = Counter()
        self.sending: defaultdict[Process | None, Sending] = defaultdict(Sending)
        self.meet: Callable[[], None] = lambda: None
        self.lost: set[Process | None] = set()
        self.kept: list[tuple[str, str, bytes]] = []
        self.accepted_count = 0
        self._accepted: dict[MessageKey, int] = {}  # the number of the last one with each key

    def chance(self, share: float) -> bool:
        """Whether a fault happens now that happens in a share of the cases."""
        return self.faulty and self.scheduler.random.random() < share

    def cuts(self, link: Link) -> bool:
        """Whether a connection is cut while messages are on their way."""
        applies = link.process is not None and link.process.name == APPLY
        return self.chance(APPLY_CUT_SHARE if applies else CUT_SHARE)

    def send_slowly(self, seconds: Sequence[float], *, divided: bool) -> None:
        """Wait before the next portion of messages.

        Args:
            seconds: how long; one of these.
            divided: whether packs are in both portions.

        """
        until = self.scheduler.now + int(self.scheduler.random.choice(seconds) * SECONDS)
        self.slow_senders += divided
        try:
            self.scheduler.wait("sends slowly", until=until)
        finally:
            self.slow_senders -= divided

    def note_accepted(self, key: MessageKey) -> None:
        """Note that the broker has accepted a message."""
        self._accepted[key] = self.accepted_count
        self.accepted_count += 1

    def has_accepted(self, key: MessageKey, begin: int) -> bool:
        """Whether the broker has accepted a message with a key since a value of accepted_count."""
        return self._accepted.get(key, -1) >= begin

    def linger(self) -> None:
        """Let a change of exchanges, queues or bindings stand alone for a while, now and then."""
        scheduler = self.scheduler
        if self.chance(LINGER_SHARE):
            seconds = scheduler.random.choice((0.01, 0.3, 2.0))
            scheduler.wait("is slow", until=scheduler.now + int(seconds * SECONDS))

    def go_down(self, seconds: float, then: Callable[[], None] = lambda: None) -> None:
        """Let the broker be unavailable: cut every connection, and refuse others for a while.

        Args:
            seconds: how long.
            then: called when it is available again.

        """
        self.scheduler.note("THE BROKER IS AWAY", by="-")
        self.down = True
        for link in list(self.open_links()):
            link.cut("the broker ends")

        def back() -> None:
            self.down = False
            self.scheduler.note("THE BROKER IS BACK", by="-")
            then()

        self.scheduler.after(seconds, back)

    def open_links(self) -> list[Link]:
        """Return the connections that the broker knows."""
        self.links = [each for each in self.links if each.connected]
        return self.links

    def confirm_seconds(self) -> float:
        """Return how long an answer takes to come back."""
        chosen = self.scheduler.random
        if not self.faulty or chosen.random() < PROMPT_ANSWERS:
            return 0.0
        return chosen.choice((0.001, 0.05, 1.0, 3.0, 12.0, 40.0))
