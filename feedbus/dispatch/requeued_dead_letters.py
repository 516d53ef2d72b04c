"""Dead letters that are requeued through a waiting queue, until they are settled.

With `block_on_dead`, a requeued dead letter must be handled before the backlog of its queue. A
consumer that holds because of `waiting_limit` reads no backlog until a dead letter has released its
key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from feedbus.wire import Delivery


class RequeuedDeadLetters:
    """The requeued dead letters of one consumer; it handles them before its waiting records."""

    def __init__(self) -> None:
        """Start without dead letters."""
        self._arrived: list[Delivery] = []
        self._taken: dict[tuple[str, int], Delivery] = {}

    def __bool__(self) -> bool:
        """Whether a dead letter has arrived, and take() has not returned it yet."""
        return bool(self._arrived)

    def add(self, delivery: Delivery) -> None:
        """Add a dead letter that a waiting queue has delivered."""
        self._arrived.append(delivery)

    def take(self, max_messages: int, is_suspected: Callable[[str], bool]) -> list[Delivery]:
        """Return dead letters that are handled now; the caller then settles them.

        Args:
            max_messages: the largest number of dead letters.
            is_suspected: called with a message id; returns whether this message may have ended a
                process, so that it must be handled alone.

        """
        count = 0
        for delivery in self._arrived[:max_messages]:
            suspected = is_suspected(delivery.message_id)
            count += not (count and suspected)
            if suspected:
                break
        messages, self._arrived = self._arrived[:count], self._arrived[count:]
        self._taken.update((_delivery_id(each), each) for each in messages)
        return messages

    def put_back(self, deliveries: Sequence[Delivery]) -> None:
        """Put back the taken dead letters among these deliveries, which were not handled."""
        self._arrived[:0] = self.finish(deliveries)

    def finish(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Return the taken dead letters among these deliveries, and forget them."""
        if not self._taken:
            return []
        finished = [self._taken.pop(_delivery_id(each), None) for each in deliveries]
        return [each for each in finished if each is not None]

    def contains(self, consumer_tag: str) -> bool:
        """Whether a dead letter of this subscription is not settled."""
        unsettled = (*self._arrived, *self._taken.values())
        return any(each.consumer_tag == consumer_tag for each in unsettled)

    def forget(self, consumer_tag: str) -> None:
        """Forget the dead letters of a subscription: the broker delivers them again."""
        self._arrived = [each for each in self._arrived if each.consumer_tag != consumer_tag]
        self._taken = {name: each for name, each in self._taken.items() if name[0] != consumer_tag}

    def forget_all(self) -> None:
        """Forget all dead letters: the broker delivers them again."""
        self._arrived, self._taken = [], {}


def _delivery_id(delivery: Delivery) -> tuple[str, int]:
    return delivery.consumer_tag, delivery.tag
