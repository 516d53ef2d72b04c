"""Which deliveries of one channel may be acknowledged, and how with the fewest frames."""

from __future__ import annotations

from collections import deque


class Settlement:
    """Delivery tags in the order of their arrival, and which of them are done."""

    def __init__(self) -> None:
        """Know of no delivery."""
        self._tags: deque[int] = deque()
        self._done: set[int] = set()
        self._acknowledged: set[int] = set()  # behind one that is not done

    def arrived(self, tag: int) -> None:
        """Note a delivery, whose tag is higher than all before."""
        self._tags.append(tag)

    def done(self, tag: int) -> None:
        """Note that a delivery may be acknowledged."""
        self._done.add(tag)

    def acknowledgements(self) -> tuple[int, list[int]]:
        """Return what is to be acknowledged now, once.

        Returns:
            The tag up to which everything is done, for one multiple acknowledgement, 0 for none;
            and the tags of what is done behind a delivery that is not.

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
