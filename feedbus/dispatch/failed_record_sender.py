"""Call the dead handler, then send the retries and dead letters of deliveries.

The dead handler is a function of the project that gets each new dead letter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from feedbus.bus.sender import Sender
from feedbus.dispatch.dead_handler import DeadHandler
from feedbus.dispatch.decoded_deliveries import DecodedDelivery
from feedbus.errors import BrokerOutage
from feedbus.logs import EventLog
from feedbus.wire.constants import KEY, REASON
from feedbus.wire.failed_messages import without_properties

events = EventLog(__name__)


class FailedRecordSender:
    """Sends the retries and dead letters of one consumer, before their deliveries are settled.

    The dispatch of a consumer has one FailedRecordSender object.
    """

    def __init__(self, consumer: str, sender: Sender, dead_handler: DeadHandler | None) -> None:
        """Create the object.

        Args:
            consumer: the name of the consumer, for the log.
            sender: sends the messages.
            dead_handler: called before a record becomes a dead letter; None if the queue does not
                set `dead_handler`.

        """
        self._consumer = consumer
        self._sender = sender
        self._dead_handler = dead_handler

    def send(
        self,
        decoded_deliveries: Sequence[DecodedDelivery],
        *,
        skip_dead_handler: bool = False,
        before_dead_handler: Callable[[str], None] | None = None,
    ) -> None:
        """Send the retries and dead letters of deliveries, and wait until the broker confirms them.

        The dead handler is called before each new dead letter is sent. If the call of this method
        is repeated, the dead handler is not called again for the same decisions.

        Args:
            decoded_deliveries: the deliveries, with the decisions on their failed records.
            skip_dead_handler: True if the dead handler must not be called.
            before_dead_handler: called with the id of a message, before the dead handler can get
                records of the message.

        Raises:
            Outage: the broker is unavailable, or the dead handler raises Outage. The caller may
                repeat the call.

        """
        if self._dead_handler is not None and not skip_dead_handler:
            for decoded in decoded_deliveries:
                if before_dead_handler is not None and decoded.decisions:
                    before_dead_handler(decoded.delivery.message_id)
                # Each result is stored at once. So if the broker is unavailable later, a repeated
                # call of send() does not call the dead handler again.
                for index, decision in enumerate(decoded.decisions):
                    decoded.decisions[index] = self._dead_handler.call_before(
                        decoded.delivery, decision
                    )
        # With `block_on_dead`, a dead letter has a blocking message, which blocks the key. The
        # connection can be lost between any two of these messages. So their order is:
        # 1. The dead letter. Suppose that the blocking message is sent first, and that the
        #    connection is then lost. When the consumer has connected again, it can reach the
        #    `waiting_limit`. Then it stops reading its queue, which still contains the record. So
        #    the dead letter is never sent, and an operator cannot release the key without it.
        # 2. The blocking message.
        # 3. The messages of the later records of the key. Suppose that they are sent before the
        #    blocking message, and that the connection is then lost. Then the record of the dead
        #    letter is delivered again, and gets a position behind the later records. This would
        #    break the order of the key.
        messages = [
            message
            for decoded in decoded_deliveries
            for decision in decoded.decisions
            for message in (decision.message, decision.blocking_message)
            if message is not None
        ]
        if not messages:
            return
        refusals = self._sender.send(messages)
        if any(refusal.is_permanent for refusal in refusals):
            # The broker always refuses these messages, usually because of a property or a header.
            # So they are sent again with only their bodies and the headers of feedbus.
            reduced = [
                without_properties(each.message, each.reason)
                for each in refusals
                if each.is_permanent
            ]
            refusals = [each for each in refusals if not each.is_permanent] + self._sender.send(
                reduced
            )
        if refusals:
            # Perhaps a retry queue or the dead-letter queue does not exist. This is an outage,
            # because no delivery may be settled before the broker has accepted these messages.
            reason = refusals[0].reason
            msg = f"{self._consumer}: cannot publish retries and dead letters: {reason}"
            raise BrokerOutage(msg)
        self._log_dead_letters(decoded_deliveries)

    def _log_dead_letters(self, decoded_deliveries: Sequence[DecodedDelivery]) -> None:
        """Log one line for each delivery with records that became dead letters."""
        for decoded in decoded_deliveries:
            letters = [
                decision.message for decision in decoded.decisions if decision.is_dead_letter
            ]
            if letters and letters[0] is not None:
                headers = letters[0].headers
                events.warning(
                    "dead_letter",
                    "a message became a dead letter; `feedbus dead show` prints it",
                    consumer=self._consumer,
                    message_id=letters[0].message_id,
                    key=headers[KEY],
                    reason=headers[REASON],
                    records=len(letters),
                )
