"""Queues, and their options: retries, batches and dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from feedbus.topology.exchanges import empty_mapping

HANDLER_TIMEOUT_SECONDS = 600.0
PREFETCH = 10
WAITING_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The option `retry` of a queue: the delays between attempts, and what follows the last one.

    Attributes:
        delays_seconds: the delay before the second attempt, before the third attempt, and so on.
        then: what happens if the attempt after the last delay fails, too. "repeat" tries again
            without end, each time after the last delay.
        retry_on: dotted names of the exceptions after which a record is retried; () for all.
        reject_on: dotted names of the exceptions after which a record becomes a dead letter
            immediately.
    """

    delays_seconds: tuple[float, ...] = (1.0, 10.0, 60.0, 600.0)
    then: Literal["dead-letter", "drop", "repeat"] = "dead-letter"
    retry_on: tuple[str, ...] = ()
    reject_on: tuple[str, ...] = ()

    @property
    def delays_milliseconds(self) -> tuple[int, ...]:
        """The different delays in milliseconds; each has a retry queue."""
        return tuple(dict.fromkeys(round(delay * 1000) for delay in self.delays_seconds))


@dataclass(frozen=True, slots=True)
class Batch:
    """The option `batch` of a queue: how many records a handler gets in one call.

    Attributes:
        size: a batch is full with this number of records.
        wait_seconds: a batch that is not full is handled only after this time since the start of
            the last call of the handler.
    """

    size: int = 1
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """The option `dead_letters` of a queue: the limits of its dead letters; None means no limit.

    Attributes:
        max_age_seconds: the age above which a dead letter is dropped.
        max_length: the largest number of dead letters; the oldest are dropped.
    """

    max_age_seconds: float | None = None
    max_length: int | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """A table [queues.NAME]: one queue, or several shards that share one declaration.

    Exactly one of the attributes `handler`, `handlers` and `handlers_by_type` has a value. None
    means that an option is not set, or that there is no limit.

    Attributes:
        name: the name in topology.toml.
        exchange: the name of the exchange to which the queue is bound.
        handler: the dotted name of the handler.
        routing_keys: the binding keys.
        shards: the number of shards; None for a queue without shards.
        weights: how many buckets of the ring each shard has, in the order of the shards. The hash
            of a key selects a bucket, so a shard with more buckets gets more keys.
        batch: how many records the handler gets in one call.
        retry: the delays between attempts, and what follows the last one.
        dead_letters: the limits of the queue's dead letters.
        dead_handler: the dotted name of the function that is called with each new dead letter.
        prefetch: how many unacknowledged messages the broker delivers to a consumer.
        concurrency: how many records a process handles at the same time.
        order_by: records with the same value of this field stay in order; True stands for the
            routing key, False for no order.
        store: whether the handlers run in transactions of the store, if there is one.
        waiting_limit: how many records of one consumer may wait for earlier records of their keys.
        block_on_dead: whether a dead letter stops the later records of its key, until an operator
            requeues or deletes it.
        once: whether a message that is delivered twice has its effects once.
        stream: whether messages of the handler are sent while the handler runs; then the handler
            has no transaction.
        type: the queue type on RabbitMQ.
        single_active_consumer: whether only one process reads the queue at a time.
        delivery_limit: a message becomes a dead letter when this many processes have ended while
            they handled this message alone.
        message_ttl_seconds: how long a message may wait in the queue.
        max_length: how many messages may wait in the queue.
        overflow: whether a full queue drops the oldest message or refuses new ones.
        arguments: other arguments with which feedbus declares the queue, such as x-max-priority.
        handlers: maps patterns of routing keys to the dotted names of handlers.
        handlers_by_type: maps values of the message property `type` to handlers.
        idle_timeout_seconds: a consumer that gets no message for this time is restarted.
        max_runtime_seconds: a consumer is restarted after this time.
        max_messages: a consumer is restarted after this number of messages.
        handler_timeout_seconds: the time limit of a call of the handler.
        memory_limit_bytes: a process that uses more memory is restarted.
        processes: how many processes each host starts for the queue, or for each shard.
        user: the user that the processes run as; None for the user who starts feedbus.
        start_retries: after this many failures in a row, each right after the start of a process,
            no process is started any more.
        stop_timeout_seconds: how long a process may take to end before it is killed; None for
            handler_timeout_seconds plus 5 s.
        external_name: the whole name on the broker, if another system declares the queue; otherwise
            "". If another system declares the queue, `exchange` is "".
    """

    name: str
    exchange: str
    handler: str = ""
    routing_keys: tuple[str, ...] = ()
    shards: int | None = None
    weights: tuple[int, ...] = (1,)
    batch: Batch = Batch()
    retry: RetryPolicy = RetryPolicy()
    dead_letters: DeadLetters = DeadLetters()
    dead_handler: str | None = None
    prefetch: int = PREFETCH
    concurrency: int = 1
    order_by: str | bool = False
    store: bool = True
    waiting_limit: int = WAITING_LIMIT
    block_on_dead: bool = False
    once: bool = False
    stream: bool = False
    type: Literal["classic", "quorum"] = "classic"
    single_active_consumer: bool = False
    delivery_limit: int = 5
    message_ttl_seconds: float | None = None
    max_length: int | None = None
    overflow: Literal["drop-head", "reject-publish"] | None = None
    arguments: Mapping[str, Any] = field(default_factory=empty_mapping)
    handlers: Mapping[str, str] = field(default_factory=empty_mapping)
    handlers_by_type: Mapping[str, str] = field(default_factory=empty_mapping)
    idle_timeout_seconds: float | None = None
    max_runtime_seconds: float | None = None
    max_messages: int | None = None
    handler_timeout_seconds: float = HANDLER_TIMEOUT_SECONDS
    memory_limit_bytes: int | None = None
    processes: int = 1
    user: str | None = None
    start_retries: int = 10
    stop_timeout_seconds: float | None = None
    external_name: str = ""
