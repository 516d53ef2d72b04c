"""The constants of the wire format: header names, content types, and limits of AMQP."""

from __future__ import annotations

JSON = "application/json"
PACK = "application/vnd.feedbus.pack+json"
SEALED = "application/vnd.feedbus.sealed"  # a message in the body of another message

OWN = "feedbus-"  # the prefix of the headers of the framework
OF_OTHER_KEYS = frozenset({"CC", "BCC"})  # further routing keys, by which RabbitMQ routes, too

# The header of each message that a program or a handler publishes. All times in headers are in
# microseconds since 1970.
PUBLISHED_AT = "feedbus-published-at"  # when the message was first published
# The headers of a pack. A generation is one set of queues for the shards of an exchange.
GENERATION = "feedbus-generation"  # the digest of the generation for which the pack was made
RECORD_COUNT = "feedbus-records"  # how many records the pack has
# The header of a fence, which marks the end of an old queue; see feedbus.generations.probes.
FENCE = "feedbus-fence"

# How often messages for the record of this message were sent although the record failed: see
# Delivery.run. A requeued dead letter keeps this header, like the headers of the publisher.
RUN = "feedbus-run"

# Headers of a message that has failed. A delayed message can also have EXPIRATION and PRIORITY. A
# requeued dead letter keeps none of the headers about its failure. The values of CONSUMER, EXCHANGE
# and QUEUE are the names in topology.toml.
ATTEMPT = "feedbus-attempt"  # how many attempts have failed
CONSUMER = "feedbus-consumer"  # the consumer in which the message failed
DEATHS_BEFORE = "feedbus-deaths"  # the broker's headers about dead-lettering before the failure
ERRORS = "feedbus-errors"  # why a record is not valid; see errors_text()
EXCHANGE = "feedbus-exchange"  # the exchange of the queue
EXPIRATION = "feedbus-expiration"  # the property `expiration` that the publisher has set
FAILED_AT = "feedbus-failed-at"  # when the last attempt failed
KEY = "feedbus-key"  # the routing key with which the message was first published
PRIORITY = "feedbus-priority"  # the property `priority` of a delayed message
QUEUE = "feedbus-queue"  # the queue in which the message failed
REASON = "feedbus-reason"  # why the last attempt failed
SENT_AT = "feedbus-sent-at"  # when the message was sent as a retry or dead letter, or requeued
TRACEBACK = "feedbus-traceback"  # the traceback of the last attempt
UNIDENTIFIED = "feedbus-unidentified"  # True if the publisher has set no valid message id
USER_ID = "feedbus-user-id"  # the property `user_id` that the publisher has set
# Headers of messages in a waiting queue, in which a failed record and the later records of its key
# wait (`order_by`).
BLOCKED = "feedbus-blocked"  # on a message that blocks the key of a dead letter
NOT_BEFORE = "feedbus-not-before"  # the time from which a record may be handled
ORDER_KEY = "feedbus-order-key"  # the key of a record, if its key is not its routing key
PLACE = "feedbus-place"  # the position of a record: a key's records are handled by position
RELEASE = "feedbus-release"  # the id of the dead letter that no longer blocks its key; "" for all
REQUEUED = "feedbus-requeued"  # on a dead letter that is requeued through a waiting queue
# Headers of a delayed message: the digits of its delay, one header for each position, and the
# queue or exchange that gets the message. See feedbus.broker.timer.
TIMER_POSITIONS = tuple(f"feedbus-timer-{position}" for position in range(15))
TIMER_TARGET = "feedbus-timer-target"
# All headers that feedbus adds when a message fails, waits or is delayed.
OF_FAILURES = frozenset(
    {
        *TIMER_POSITIONS,
        TIMER_TARGET,
        ATTEMPT,
        BLOCKED,
        CONSUMER,
        DEATHS_BEFORE,
        ERRORS,
        EXCHANGE,
        EXPIRATION,
        FAILED_AT,
        KEY,
        NOT_BEFORE,
        ORDER_KEY,
        PLACE,
        PRIORITY,
        QUEUE,
        REASON,
        RELEASE,
        REQUEUED,
        SENT_AT,
        TRACEBACK,
        UNIDENTIFIED,
        USER_ID,
    }
)

# Headers that the broker adds when it dead-letters a message; they name the queues in which the
# message was.
DEATHS = "x-death"
OF_DEATHS = ("x-first-death-", "x-last-death-")  # the prefixes of other such headers
# Headers in which the broker counts the deliveries of a message.
OF_DELIVERIES = frozenset({"x-delivery-count", "x-acquired-count"})

SHORT_TEXT_BYTES = 255  # AMQP's limit for a routing key, a message id or another text property
# The largest sizes of the headers REASON, ERRORS and TRACEBACK.
REASON_BYTES = 1_000
ERRORS_BYTES = 8_000
TRACEBACK_BYTES = 4_096
# A handler call that takes at least SLOW_SECONDS can exceed the broker's time limit for
# acknowledgements (RabbitMQ's `consumer_timeout`). No broker has a limit below 1 s. The time begins
# with the delivery, so the limit can be exceeded by a call that is shorter than the limit.
SLOW_SECONDS = 0.9
