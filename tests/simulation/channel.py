"""A channel whose frames take their time: confirms, acknowledgements and returned messages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from amqp.exceptions import PreconditionFailed

from feedbus.broker_names import Role, has_role
from feedbus.transports.sqlite.channel import Channel
from feedbus.transports.sqlite.confirms import Confirm, Outcome, PublishedMessage, Returned
from tests.simulation.network import APPLY, Answer, Network
from tests.simulation.scheduler import SECONDS

CUT_SHARE = 0.1  # of acknowledgements that are sent together: the connection is cut after them
SLOW_SHARE = 0.1  # of portions of messages: the next portion is sent later
SLOW_SECONDS, VERY_SLOW_SECONDS = (0.3, 2.0), (2.0, 8.0)
NO_MESSAGE = 0  # ids of messages begin at 1
LATE_ACKNOWLEDGEMENTS = 0.2  # of all


class SimulatedChannel(Channel):
    """A channel whose frames take their time."""

    def _start(self) -> None:
        super()._start()
        self.answers_at: int | None = None
        self.unsent: list[tuple[int, bool]] = []

    def forget_deliveries(self, messages: Collection[int]) -> None:
        """Settle no delivery of these messages any more; their tags stay valid."""
        for tag, held in self._unsettled.items():
            if held.message in messages:
                self._unsettled[tag] = held._replace(message=NO_MESSAGE)

    @property
    def _network(self) -> Network:
        return self._link.network

    def flush(self) -> None:
        """Send the buffered data in parts."""
        self.send_acknowledgements()
        self._link.check_open()  # a refused acknowledgement has cut it
        sending = self._link.sending
        if sending.is_refused and self._outgoing:
            sending.is_refused = False
            self._refuse_outgoing()
        answers: list[Answer] = []
        process, network = self._link.process, self._network  # not known after a cut
        try:
            self._send_in_portions(answers)
        finally:
            # An apply sends a message to a full queue only after the earlier ones.
            is_apply = process is not None and process.name == APPLY
            if not is_apply and not all(each.is_accepted for each in answers[:-1]):
                network.divided_sendings.append(answers)

    def _send_in_portions(self, answers: list[Answer]) -> None:
        """Send the buffered messages, and add the answers of the broker to a list."""
        link, network, first = self._link, self._link.network, True
        sending = link.sending
        while self._outgoing:
            size = self._size_of_portion(first=first)
            if (sending.is_cut and not (first and size)) or network.cuts(link):
                sending.is_cut = False
                link.cut("while messages are on their way")
            first, size = False, max(size, 1)
            later = self._outgoing[size:]
            del self._outgoing[size:]
            sent = list(self._outgoing)
            try:
                super().flush()
            except Exception:
                answers += [Answer(each.message, is_accepted=None) for each in sent]
                raise
            answers += [
                Answer(each.message, is_accepted=not self._is_refused(each)) for each in sent
            ]
            self._note_accepted(sent)
            self._outgoing[:0] = later
            divided = self._are_divided(sent, later)
            awaited = sending.is_slow or (divided and network.awaits_slow_sender)
            if later and (awaited or network.chance(SLOW_SHARE)):
                seconds = VERY_SLOW_SECONDS if awaited else SLOW_SECONDS
                sending.is_slow = False
                network.send_slowly(seconds, divided=divided)
                link.check_open()
        if not first and sending.after is not None:
            after, sending.after = sending.after, None
            after()
            link.check_open()

    def _refuse_outgoing(self) -> None:
        """Refuse all messages that are to be sent, as a queue without a leader does."""
        refused, self._outgoing, self._outgoing_bytes = self._outgoing, [], 0
        self._unreported += [
            Confirm("basic_nack", each.tag, multiple=False) for each in refused if each.tag
        ]

    def _is_refused(self, message: PublishedMessage) -> bool:
        """Whether a full queue has refused a message."""
        return Confirm("basic_nack", message.tag, multiple=False) in self._unreported

    def _note_accepted(self, sent: Sequence[PublishedMessage]) -> None:
        """Note which messages the broker has neither refused nor returned."""
        refused = {
            each.tag
            for each in self._unreported
            if isinstance(each, Confirm) and each.event == "basic_nack"
        }
        refused |= {each.outgoing.tag for each in self._unreported if isinstance(each, Returned)}
        for each in sent:
            if each.tag not in refused:
                message_id = each.message.properties.get("message_id")
                key = message_id or each.content.body, each.content.routing_key
                self._network.note_accepted(key)

    def _are_divided(
        self, sent: Sequence[PublishedMessage], later: Sequence[PublishedMessage]
    ) -> bool:
        """Whether packs are among the messages that were sent, and among those sent later."""
        now, then = _packs(sent), _packs(later)
        if self._network.awaits_slow_sender and not self._network.awaits_one_shard:
            return bool(then) and any(map(self._is_refused, sent))
        return not now.isdisjoint(then)

    def queue_delete(self, queue: str = "", *arguments: Any, **options: Any) -> int:
        """Delete a queue, and count the deleted queues of rings."""
        count = super().queue_delete(queue, *arguments, **options)
        self._network.changes["queue deleted"] += has_role(queue, {Role.GENERATION})
        return count

    def _size_of_portion(self, *, first: bool) -> int:
        """Return how many messages are sent next; 0 if the connection is to be cut before them."""
        link, size = self._link, len(self._outgoing)
        chosen = link.network.scheduler.random
        if first and link.sending.is_cut:
            return chosen.randrange(size)
        if size == 1:
            return size
        if first and (link.sending.is_slow or link.network.awaits_slow_sender):
            return chosen.randrange(1, size)
        return chosen.randint(1, size) if link.network.faulty else size

    def report(self) -> bool:
        """Report answers that have come back by now."""
        if not self._unreported:
            return False
        network = self._network
        now = network.scheduler.now
        if self.answers_at is None:
            self.answers_at = now + int(network.confirm_seconds() * SECONDS)
        if now < self.answers_at:
            return False
        self.answers_at = None
        if network.faulty:
            self._unreported = self._rearranged(self._unreported)
            size = network.scheduler.random.randint(1, len(self._unreported))
        else:
            size = len(self._unreported)
        reported, self._unreported = self._unreported[:size], self._unreported[size:]
        for outcome in reported:
            network.scheduler.note(f"hears {_shown(outcome)}")
            outcome.report(self.events)
        return True

    def _rearranged(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Return answers in another order that a broker may choose: each message is by itself."""
        returned = [each for each in outcomes if isinstance(each, Returned)]
        waiting = getattr(self, "_answered", 0)
        single: list[Outcome] = []
        for each in outcomes:
            if isinstance(each, Confirm):
                first = waiting + 1 if each.multiple else each.tag
                nacked = {
                    one.tag for one in outcomes if isinstance(one, Confirm) and not one.multiple
                }
                tags = list(range(first, each.tag + 1))
                if each.multiple:
                    tags = [tag for tag in tags if tag not in nacked]
                single += [Confirm(each.event, tag, multiple=False) for tag in tags]
                waiting = max(waiting, each.tag)
        self._answered = waiting
        self._network.scheduler.random.shuffle(single)
        return [*returned, *single]

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        """Send an acknowledgement, which may stay on its way for a while."""
        link = self.connection
        if link is None or not link.connected:
            return  # written to a dead socket
        link.network.scheduler.step(f"acknowledges {delivery_tag}{' and before' * multiple}")
        link.network.meet()
        if self.connection is None or not link.connected:
            return
        self.unsent.append((delivery_tag, multiple))
        if link.network.chance(LATE_ACKNOWLEDGEMENTS):
            seconds = link.network.scheduler.random.choice((0.001, 0.1, 2.0))
            link.network.scheduler.after(seconds, self.send_acknowledgements)
        else:
            self.send_acknowledgements()

    def ack_together(self, delivery_tags: Sequence[int]) -> None:
        """Send one acknowledgement after the other, as to RabbitMQ."""
        for delivery_tag in delivery_tags:
            self.basic_ack(delivery_tag)
            link = self.connection
            if link is None:
                continue
            if link.cut_acknowledging or link.network.chance(CUT_SHARE):
                link.cut_acknowledging = False
                self.send_acknowledgements()
                link.cut("between two acknowledgements")

    def send_acknowledgements(self) -> None:
        """Let acknowledgements that are on their way arrive."""
        link = self.connection
        if link is None or not link.connected:
            return
        unsent, self.unsent = self.unsent, []
        for tag, multiple in unsent:
            with link.without_turns():
                try:
                    super().basic_ack(tag, multiple)
                except PreconditionFailed as error:
                    link.network.refused_acknowledgements.append(str(error))
                    link.cut("protocol error")
                    return


def _packs(messages: Sequence[PublishedMessage]) -> set[tuple[str, str]]:
    """Return the exchanges and the routing keys of the packs among messages."""
    contents = [each.content for each in messages]
    return {
        (each.exchange, each.routing_key)
        for each in contents
        if has_role(each.exchange, {Role.PACKS})
    }


def _shown(outcome: Outcome) -> str:
    if isinstance(outcome, Returned):
        return "a message comes back"
    return f"{outcome.event} {outcome.tag}{' and before' * outcome.multiple}"
