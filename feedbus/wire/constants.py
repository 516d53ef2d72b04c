"""Every literal on the wire: the framework's header names, its content types, AMQP's limits."""

from __future__ import annotations

JSON = "application/json"
PACK = "application/vnd.feedbus.pack+json"

# The framework's own headers. A publisher's headers are kept apart from them by this prefix.
PREFIX = "feedbus-"
ATTEMPT = "feedbus-attempt"
CONSUMER = "feedbus-consumer"
ERRORS = "feedbus-errors"
EXCHANGE = "feedbus-exchange"
FAILED_AT = "feedbus-failed-at"
FENCE = "feedbus-fence"
GENERATION = "feedbus-generation"
KEY = "feedbus-key"
PUBLISHED_AT = "feedbus-published-at"
QUEUE = "feedbus-queue"
REASON = "feedbus-reason"
RECORD_COUNT = "feedbus-records"

SHORT_TEXT_BYTES = 255  # a routing key, a message id or any other text property
