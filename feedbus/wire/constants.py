"""The constants of the wire format: header names, content types, and limits of AMQP."""

from __future__ import annotations

JSON = "application/json"
PACK = "application/vnd.feedbus.pack+json"
SEALED = "application/vnd.feedbus.sealed"  # a message in the body of another message

OWN = "feedbus-"  # the prefix of the headers of the framework
OF_OTHER_KEYS = frozenset({"CC", "BCC"})  # headers by which RabbitMQ routes a copy

# Headers of the framework on each message that it publishes.
FENCE = "feedbus-fence"
GENERATION = "feedbus-generation"
PUBLISHED_AT = "feedbus-published-at"  # when the message was first published
RECORD_COUNT = "feedbus-records"

# Headers of the framework on a failed message; they are removed when the message is requeued.
ATTEMPT = "feedbus-attempt"
CONSUMER = "feedbus-consumer"
DEATHS_BEFORE = "feedbus-deaths"
ERRORS = "feedbus-errors"
EXCHANGE = "feedbus-exchange"
EXPIRATION = "feedbus-expiration"
FAILED_AT = "feedbus-failed-at"
KEY = "feedbus-key"
PRIORITY = "feedbus-priority"
QUEUE = "feedbus-queue"
REASON = "feedbus-reason"
SENT_AT = "feedbus-sent-at"  # when the message was sent as a retry or dead letter, or requeued
TRACEBACK = "feedbus-traceback"
UNIDENTIFIED = "feedbus-unidentified"
USER_ID = "feedbus-user-id"
# Headers of a record in a waiting queue, where it waits for earlier records of its key. ORDER_KEY
# is its key, if that is not the routing key. PLACE is its position in the order of the key.
# NOT_BEFORE is the time when it may run, in microseconds since 1970.
BLOCKED = "feedbus-blocked"  # on a message that represents a dead letter, which blocks the key
NOT_BEFORE = "feedbus-not-before"
ORDER_KEY = "feedbus-order-key"
PLACE = "feedbus-place"
RELEASE = "feedbus-release"  # the id of the dead letter whose records are released; "" for all
REQUEUED = "feedbus-requeued"  # on a dead letter that is requeued through a waiting queue
# Headers of a delayed message: the digits of its delay, one header for each position, and its
# target. See feedbus.broker.timer.
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

# Headers that the broker adds when it dead-letters a message; they name its earlier queues.
DEATHS = "x-death"
OF_DELIVERIES = frozenset({"x-delivery-count", "x-acquired-count"})
OF_DEATHS = ("x-first-death-", "x-last-death-")  # the prefix of other such headers

SHORT_TEXT_BYTES = 255  # a routing key, a message id or any other text property
REASON_BYTES = 1_000
ERRORS_BYTES = 8_000
TRACEBACK_BYTES = 4_096
LEAST_TIMEOUT_SECONDS = 1.0  # the shortest consumer timeout of any broker
