"""Decide which deliveries of a channel to acknowledge, with as few AMQP frames as possible.

Deliveries can end in another order than they arrived. One frame can acknowledge a delivery and all
earlier ones (`multiple`).
"""

from __future__ import annotations

from collections import deque


class Settlement:
    """The delivery tags of a channel in the order of arrival, and which of them are done.

    A subscription has one Settlement object. A delivery is *done* when its records are handled, and
    the messages that result from them are confirmed.
    """

    def __init__(self) -> None:
        """Create the object without deliveries."""
        self._tags: deque[int] = deque()
        self._done: set[int] = set()
        # Tags that were acknowledged while an earlier delivery was not done.
        self._acknowledged: set[int] = set()

    def add(self, tag: int) -> None:
        """Add a delivery that has arrived.

        This method is called for each delivery, in the order of arrival.

        Args:
            tag: the delivery tag. It must be higher than the tags of all earlier deliveries.

        """
        self._tags.append(tag)

    def mark_done(self, tag: int) -> None:
        """Register that a delivery may be acknowledged: its records are handled.

        Args:
            tag: the delivery tag of a delivery that was added.

        """
        self._done.add(tag)

    def take_acknowledgeable(self) -> tuple[int, list[int]]:
        """Return the tags to acknowledge now; each tag is returned only once.

        The reader of the queue then acknowledges these deliveries.

        Returns:
            Two values. The first is the tag for one multiple acknowledgement, or 0 for none. The
            second has the tags that are acknowledged one by one, because an earlier delivery is
            not done.

        """
        up_to = 0
        while self._tags:
            tag = self._tags[0]
            if tag in self._done:
                self._done.remove(tag)
                up_to = tag
            elif tag in self._acknowledged:
                self._acknowledged.remove(tag)
            else:
                break
            self._tags.popleft()
        single = sorted(self._done)
        self._acknowledged |= self._done
        self._done.clear()
        return up_to, single
