"""The name and the meaning of every event that feedbus logs."""

from __future__ import annotations

from collections.abc import Mapping

CONSUMERS = "Consumers"
SUPERVISOR = "The supervisor"
OPERATIONS = "The operations process, its outbox relay and its schedules"
BROKER = "Broker, exchanges and queues"
METRICS = "Metric files"

# By group: what each event means, and what an operator does about it, if anything.
EVENTS: Mapping[str, Mapping[str, str]] = {
    CONSUMERS: {
        "started": "A consumer has started.",
        "ended": "A consumer has ended by itself; `reason` is the limit or the signal. From the"
        " supervisor: a process has ended, and is restarted.",
        "failed": "A supervised process ends because of this error. Correct what it names.",
        "handler_failed": "The handler raised an exception for one record; the traceback follows."
        " The queue's retry policy decides what becomes of the record.",
        "batch_failed": "The handler raised an exception for a batch. Each record is handled"
        " alone; `handler_failed` names those that fail.",
        "dropped": "The handler raised `Drop` for so many records of a batch.",
        "dead_letter": "A record was put into the dead letters. `feedbus dead show` has it;"
        " `records` is their number where they came in one message.",
        "dead_handler_failed": "The dead-letter handler raised an exception; the traceback follows."
        " The record became a dead letter all the same.",
        "dead_handler_skipped": "The dead-letter handler was not called, since the message does"
        " not have the type of its parameter.",
        "message_given_up": "A message has ended its consumer, or cost its connection, as often as"
        " `delivery_limit` allows, and is put into the dead letters.",
        "hangs": "A handler takes longer than `handler_timeout`. Its process is ended with SIGABRT"
        " and writes the stacks of its threads; the message is delivered again.",
        "channel_lost": "The broker closed the channel while a message was handled for longer than"
        " its timeout. The message is delivered again.",
        "prefetched_returned": "Unhandled messages were returned to the broker before its"
        " `consumer_timeout`.",
        "unsettled_at_end": "The consumer ended during an outage; its unsettled messages are"
        " delivered again.",
        "repeat_skipped": "On a queue with `once = true`: a redelivered message without a message"
        " id equals one that has been handled, and was not handled. Publish with message ids.",
        "holding": "The broker, the store or something else that the consumer needs does not"
        " answer. It tries again, and nothing is lost. Equal lines are folded into one a minute.",
        "resumed": "The consumer handles messages again after `holding`.",
        "loop_blocked": "An async handler has blocked the event loop; the stack shows where.",
        "task_failed": "A task that a handler or a resource has started failed.",
        "loop_stopped": "A handler or a resource stopped the event loop; it was run again.",
        "resource_ended": "A resource has ended by itself, and is opened again.",
        "resource_not_closed": "A resource could not be closed; the others were.",
        "log": "A line that a library or a handler has logged; `logger` names its logger.",
    },
    SUPERVISOR: {
        "starting": "`feedbus up` starts this number of processes.",
        "ready": "A process does its work now.",
        "all_ready": "Every process is ready.",
        "not_all_ready": "After a minute, or since processes were given up, not every process is"
        " ready. The lines that follow name each one, the reason and its log.",
        "gave_up": "A process has failed too often and is not restarted. Read its log, then start"
        " it with `circusctl start NAME`.",
        "stopping": "A process, or all of them, was asked to end and finishes its work.",
        "killed": "A process did not end within its `stop_timeout` and was killed; the message"
        " that it handled is delivered again.",
        "left": "A consumer that the topology does not have any more has drained its queue.",
        "stray_ended": "A process that an earlier, killed supervisor had started was ended.",
        "stopped": "Everything has ended.",
        "changed": "`feedbus up --reload`: files of the project have changed.",
        "printed": "A line that `feedbus apply` or `feedbus check` has printed for `--reload`.",
        "kept": "The changed files have problems; the running system stays as it is.",
        "lines_dropped": "The disk was full, so lines of this log are missing.",
    },
    OPERATIONS: {
        "listening": "The process serves its HTTP address.",
        "not_listening": "The HTTP address cannot be used; tried again every few seconds.",
        "port_taken": "The default port is taken, so another one is used.",
        "not_ready": "`/readyz` was answered with 503; `part` and `error` name the reason.",
        "outage": "A request was answered with 503, since the store does not answer.",
        "crash": "A request was answered with 500; the traceback follows, and `id` is in the"
        " answer.",
        "connections_closed": "HTTP connections were closed that were too slow or too many.",
        "unpublished": "The broker refused a message. Its row stays in the outbox and is tried"
        " again.",
        "unremoved": "Rows of published messages could not be removed from the outbox. They are"
        " published again with the same message ids.",
        "broker_unreachable": "The broker does not answer; messages stay in the outbox.",
        "relay_waits": "The outbox cannot be relayed, since the store or the broker does not"
        " answer.",
        "relayed": "Messages of the outbox were published.",
        "fired": "A schedule has published its message.",
        "schedule_missed": "Moments of a schedule passed while nothing ran; `fired` is the one"
        " that was made up for, within `catch_up`.",
        "not_fired": "A schedule cannot publish its message; tried again.",
    },
    BROKER: {
        "broker_blocked": "The broker is short of memory or disk and takes nothing from"
        " publishers. Free some: `rabbitmq-diagnostics alarms` shows which.",
        "broker_unblocked": "The broker takes messages again.",
        "tls_not_verified": "The URL has `ssl_verify=none`: the server is not verified. Remove it.",
        "publishing_switched": "A start of feedbus made another ring of shards the current one."
        " Every host of the project needs the same topology.",
        "state_damaged": "Another program has published to a queue of feedbus's own. Stop it, then"
        " run `feedbus apply`.",
        "misplaced": "The broker has rebuilt a ring in another order, so records of one key may be"
        " handled out of order. Run `feedbus apply`.",
        "misplaced_not_recorded": "The ring could not be marked as out of order; tried again.",
        "messages_lost": "Messages were published by name to a queue that was being deleted."
        " Publish to its exchange.",
        "delivery_limit_differs": "A quorum queue has a delivery limit of its own. Run `feedbus"
        " apply`.",
        "requeue_exchange_refused": "The broker user may not declare exchanges, so requeued dead"
        " letters have the queue's name as routing key.",
        "dead_letters_dropped": "Dead letters beyond `dead_letters.max_age` or `max_length` were"
        " dropped.",
        "dead_letters_unreadable": "The dead letters cannot be read to drop old ones; tried again.",
        "timer_declared": "New exchanges of the timer were declared; the first delayed message"
        " waits until the broker has written them to its disk.",
        "undelivered_sent": "Delayed messages whose queue or exchange was missing when they were"
        " due were sent on.",
    },
    METRICS: {
        "no_metrics": "The folder of metric files cannot be written; this process counts nothing.",
        "metrics_in_memory": "A metric file cannot grow; new metrics of this process are not"
        " shown.",
        "metrics_set_aside": "A metric file was damaged and renamed; its counters begin at 0.",
        "metrics_unreadable": "A metric file cannot be read, and is left out.",
    },
}


def markdown() -> str:
    """Return a table of the events for each group."""
    parts = []
    for group, events in EVENTS.items():
        rows = [f"| `{name}` | {meaning} |" for name, meaning in events.items()]
        parts.append("\n".join([f"### {group}", "", "| event | meaning |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"
