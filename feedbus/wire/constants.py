"""The constants of the wire format: header names, content types, and limits of AMQP."""

from __future__ import annotations

JSON = "application/json"
PACK = "application/vnd.feedbus.pack+json"
SEALED = "application/vnd.feedbus.sealed"  # a whole message as another one's body

OWN = "feedbus-"  # how the name of each header of the framework begins
OF_OTHER_KEYS = frozenset({"CC", "BCC"})  # headers by which RabbitMQ routes a copy

# What the framework says about a message that it publishes.
FENCE = "feedbus-fence"
GENERATION = "feedbus-generation"
PUBLISHED_AT = "feedbus-published-at"  # for the first time
RECORD_COUNT = "feedbus-records"

# What it says about a message that has failed; gone when the message is sent back to its queue.
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
SENT_AT = "feedbus-sent-at"  # as a retry, as a dead letter or from the dead letters
UNIDENTIFIED = "feedbus-unidentified"
USER_ID = "feedbus-user-id"
# Of a record that waits so that its key stays in order: its key, where that is no routing key; its
# place among those of the key; when it may run, in microseconds since 1970.
BLOCKED = "feedbus-blocked"  # by its dead letter: it stands for the record until that is decided
NOT_BEFORE = "feedbus-not-before"
ORDER_KEY = "feedbus-order-key"
PLACE = "feedbus-place"
RELEASE = "feedbus-release"  # what is blocked by the dead letter of the message's id, or by any
# How long a message waits in the timer, a digit each place, and where it goes then.
TIMER_PLACES = tuple(f"feedbus-timer-{place}" for place in range(15))
TIMER_TARGET = "feedbus-timer-target"
OF_FAILURES = frozenset(
    {
        *TIMER_PLACES,
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
        SENT_AT,
        UNIDENTIFIED,
        USER_ID,
    }
)

# What a broker says about a message's way.
DEATHS = "x-death"
OF_DELIVERIES = frozenset({"x-delivery-count", "x-acquired-count"})
OF_DEATHS = ("x-first-death-", "x-last-death-")  # how the names of others begin

SHORT_TEXT_BYTES = 255  # a routing key, a message id or any other text property
REASON_BYTES = 1_000
ERRORS_BYTES = 8_000
LEAST_TIMEOUT_SECONDS = 1.0  # no broker waits less for an acknowledgement
