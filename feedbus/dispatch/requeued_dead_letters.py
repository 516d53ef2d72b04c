"""Dead letters that are requeued through a waiting queue, until they are settled.

With `block_on_dead`, a dead letter blocks its key. The later records of the key wait in a second
queue of the consumer, the waiting queue. When `waiting_limit` records wait, the consumer holds: it
handles no more messages of its own queue. If the dead letter were requeued through the own queue,
it would be behind the backlog there. The consumer would never reach the dead letter, and would hold
for ever. So dead letters are requeued through the waiting queue, which the consumer still reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from feedbus.wire import Delivery


class RequeuedDeadLetters:
    """The requeued dead letters that waiting queues have delivered, until they are settled.

    Requeued dead letters are handled before the waiting records. WaitingDeliveries has one
    RequeuedDeadLetters object.
    """

    def __init__(self) -> None:
        """Start without dead letters."""
        self._arrived: list[Delivery] = []
        self._taken: dict[tuple[str, int], Delivery] = {}  # by consumer tag and delivery tag

    def __bool__(self) -> bool:
        """Whether a dead letter has arrived, and take() has not returned it yet."""
        return bool(self._arrived)

    def add(self, delivery: Delivery) -> None:
        """Add a dead letter that a waiting queue has delivered.

        Args:
            delivery: the delivery of the dead letter.

        """
        self._arrived.append(delivery)

    def take(self, max_messages: int, is_suspected: Callable[[str], bool]) -> list[Delivery]:
        """Return dead letters to handle now.

        When they are handled, the caller calls finish(). If they cannot be handled, the caller
        calls put_back().

        Args:
            max_messages: the largest number of dead letters.
            is_suspected: a function that gets a message id. It returns whether this message may
                have ended a process. Such a message must be handled alone.

        """
        count = 0
        for delivery in self._arrived[:max_messages]:
            must_be_alone = is_suspected(delivery.message_id)
            if must_be_alone and count:
                break
            count += 1
            if must_be_alone:
                break
        messages, self._arrived = self._arrived[:count], self._arrived[count:]
        self._taken.update((_delivery_id(each), each) for each in messages)
        return messages

    def put_back(self, deliveries: Sequence[Delivery]) -> None:
        """Let dead letters wait again, because they were not handled.

        The cause is an outage, for example.

        Args:
            deliveries: deliveries that were not handled. Deliveries that take() has not returned
                are ignored.

        """
        self._arrived[:0] = self.finish(deliveries)

    def finish(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Forget dead letters that were handled; return the deliveries that must be acknowledged.

        Args:
            deliveries: deliveries that were handled. Deliveries that take() has not returned are
                ignored.

        """
        if not self._taken:
            return []
        finished = [self._taken.pop(_delivery_id(each), None) for each in deliveries]
        return [each for each in finished if each is not None]

    def contains(self, consumer_tag: str) -> bool:
        """Whether a dead letter of the subscription with this tag is not settled.

        If so, the waiting queue cannot be deleted yet.

        Args:
            consumer_tag: the consumer tag of the subscription to a waiting queue.

        """
        unsettled = (*self._arrived, *self._taken.values())
        return any(each.consumer_tag == consumer_tag for each in unsettled)

    def forget(self, consumer_tag: str) -> None:
        """Forget the dead letters of a subscription, when the subscription ends.

        The broker delivers the dead letters again, because they were not acknowledged.

        Args:
            consumer_tag: the consumer tag of the subscription to a waiting queue.

        """
        self._arrived = [each for each in self._arrived if each.consumer_tag != consumer_tag]
        self._taken = {tags: each for tags, each in self._taken.items() if tags[0] != consumer_tag}

    def forget_all(self) -> None:
        """Forget all dead letters, when the connection ends: the broker delivers them again."""
        self._arrived, self._taken = [], {}


def _delivery_id(delivery: Delivery) -> tuple[str, int]:
    return delivery.consumer_tag, delivery.tag
