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
        "ended": "A consumer has ended; `reason` says why, such as a signal or a limit of messages."
        " If a process ends by itself, the supervisor also writes a line `ended`, with the field"
        " `exit`, and restarts the process. After a failure, this line is also in the log of the"
        " consumer.",
        "process_failed": "A process that the supervisor has started ends because of an error. The"
        " line contains the error; correct its cause.",
        "handler_failed": "The handler raised an exception for one record; the traceback follows."
        " The queue's retry policy decides what happens to the record.",
        "batch_failed": "The handler raised an exception for a batch. Each record is handled"
        " alone; `handler_failed` names the records that fail.",
        "records_dropped": "The handler raised `Drop` for `records` records, which were"
        " acknowledged. They do not become dead letters.",
        "dead_letter": "A message became a dead letter; `reason` says why. `feedbus dead show`"
        " prints it. `records` is the number of its records that failed.",
        "dead_handler_failed": "The dead handler raised an exception; the traceback follows."
        " The record became a dead letter anyway.",
        "dead_handler_skipped": "The dead handler was not called, because the message is not"
        " valid for the type of the dead handler's parameter. The message became a dead letter.",
        "message_given_up": "While one message was handled, the process or its connection ended"
        " `delivery_limit` times. The message becomes a dead letter.",
        "hangs": "A handler takes longer than `handler_timeout`. feedbus ends the process with"
        " SIGABRT. The stacks of its threads are in its log. The message is delivered again.",
        "channel_lost": "The broker closed the channel or cancelled the consumer, because handling"
        " a message took longer than `consumer_timeout`, or no heartbeat was sent. RabbitMQ gives"
        " no reason for a cancel, so the line then contains the probable one. The message is"
        " delivered again.",
        "prefetched_returned": "Messages that waited for their handler were returned to the broker,"
        " before its `consumer_timeout` expired, or after it had cancelled a subscription; the line"
        " contains the reason. They are delivered again.",
        "unsettled_at_end": "The consumer ended during an outage. The broker delivers its"
        " unacknowledged messages again.",
        "repeat_skipped": "On a queue with `once = true`: a redelivered message without a message"
        " id was skipped, because an equal message was handled before. Publish with message ids.",
        "records_skipped": "On a queue with `once = true`: records were skipped, because records"
        " with their message ids were handled before. `records` is their number, `message_id` is"
        " one of the ids. Repeated deliveries are skipped after a crash or an outage. If publishers"
        " give the same id to different messages, correct them. This line is written at most once"
        " a minute.",
        "consumer_paused": "The broker, the store or something else that the consumer needs does"
        " not answer; the line contains the reason. The consumer tries again. Nothing is lost."
        " `feedbus status` shows the state `holding`. While the reason stays the same, this line is"
        " written once a minute.",
        "consumer_resumed": "The consumer handles messages again after `consumer_paused`.",
        "sessions_ended": "PostgreSQL had not answered on some connections, so feedbus had dropped"
        " these connections. PostgreSQL answers again, and ends their sessions. This releases the"
        " locks of these sessions. `sessions` is their number.",
        "session_left": "feedbus dropped a connection to PostgreSQL, and could not end its session"
        " there. If the session is `idle in transaction`, it keeps its locks: end it with"
        " `pg_terminate_backend()`.",
        "waiting_read": "The consumer begins to read a queue that has waiting records. `records`"
        " says how many wait for an earlier record of their key, or for their retry.",
        "waiting_limit": "The number of records that wait for earlier records of their keys has"
        " reached `waiting_limit`: the consumer holds, and handles no new records, until some of"
        " them are handled or become dead letters. With `block_on_dead`, dead letters that block a"
        " key count, too: requeue or drop them.",
        "waiting_resumed": "The consumer continues after `waiting_limit`.",
        "switch_limit": "After a change of shards, records wait for the old queues of their keys."
        " Their number has reached `waiting_limit`: the consumer reads only its oldest queues until"
        " fewer records wait.",
        "switch_limit_over": "The consumer reads all its queues again after `switch_limit`.",
        "waiting_moved": "The waiting records of a queue of an old ring were moved to the shards"
        " that own their keys now.",
        "key_blocked": "With `block_on_dead = true`: a dead letter blocks its key. `feedbus dead"
        " requeue` and `feedbus dead drop` release the key.",
        "standing_by": "The consumer's shard is assigned to another host. The consumer has returned"
        " the messages that it had not handled, and waits.",
        "assigned": "The consumer's shard is assigned to this host now, so the consumer reads its"
        " queue.",
        "coroutine_not_awaited": "A handler has created a coroutine and not awaited it, so the code"
        " of the coroutine has not run; `place` and `function` say where. Each process logs each"
        " place once.",
        "loop_blocked": "An async handler has blocked the event loop; the stack shows where.",
        "task_failed": "An asyncio task of a handler or a resource failed; the traceback follows.",
        "loop_stopped": "A handler or a resource stopped the event loop; feedbus runs it again."
        " Search the project's async code for a call of `loop.stop()`, and remove it.",
        "resource_ended": "A resource has ended by itself; feedbus opens it again. The traceback"
        " shows the cause. If this repeats, correct the resource, or the server that it uses.",
        "resource_not_closed": "A resource could not be closed. When the process ends, the"
        " traceback follows, and the other resources are closed. After an outage that a handler has"
        " raised, feedbus opens the resource again.",
        "log": "A line that a library or a handler has logged; `logger` is the name of the logger."
        " Python's warnings have the logger `py.warnings`.",
    },
    SUPERVISOR: {
        "starting": "`feedbus up` starts the processes. The message has their number and the folder"
        " of their logs.",
        "ready": "A process is ready: it handles messages or answers requests.",
        "all_ready": "Every process is ready, or holds: see `consumer_paused`.",
        "not_all_ready": "Some processes were not ready within a minute, or are not restarted any"
        " more. The next lines name each of these processes, the reason and its log.",
        "gave_up": "A process has failed too often and is not restarted. Read its log, then start"
        " it with `feedbus restart NAME`.",
        "stopping": "The supervisor is stopping a process, or all processes. Each consumer first"
        " finishes the messages that it handles.",
        "killed": "The supervisor has killed a process that did not end within `stop_timeout`, or"
        " child processes that did not end with their process. The broker delivers the messages of"
        " a killed consumer again.",
        "consumer_removed": "A consumer that is no longer in the topology has handled the last"
        " messages of its queue and has ended.",
        "leftover_ended": "The supervisor has ended a process that an earlier supervisor had"
        " started. The earlier supervisor was killed and could not end it.",
        "stopped": "The supervisor ends, because every process has ended.",
        "files_changed": "`feedbus up --reload`: files of the project have changed.",
        "command_output": "`feedbus up --reload` runs `feedbus check` and `feedbus apply`. This is"
        " a line of their output. If the command has failed, the line is a warning.",
        "reload_refused": "`feedbus up --reload`: the changed files have problems, or their check"
        " took too long, so the running system was not changed.",
        "reload_failed": "`feedbus up --reload`: the change could not be applied, or only a part of"
        " it, or `feedbus apply` took too long. feedbus tries again when files change the next"
        " time.",
        "lines_dropped": "The disk was full, so lines of this log are missing. Free disk space.",
    },
    OPERATIONS: {
        "hosts_changed": "The hosts among which the shards are divided have changed: `joined` and"
        " `gone` have the names of the hosts that were added and removed.",
        "hosts_unknown": "This host cannot announce itself to the other hosts; `error` has the"
        " cause, such as an unavailable broker or a missing permission. feedbus tries again every"
        " second. Meanwhile, no message is lost and each key stays in order. But each shard is read"
        " by the host whose consumer subscribed first, so some hosts may have more work than"
        " others. Correct the cause; then the shards are divided among the hosts again.",
        "listening": "The operations process answers HTTP requests at this address.",
        "operations_stopping": "The operations process has received a signal. It ends after it has"
        " answered the current requests.",
        "operations_stopped": "The operations process has ended.",
        "not_listening": "The HTTP address cannot be used; feedbus tries again every few seconds.",
        "port_taken": "The default port is in use, so the process uses another port.",
        "not_ready": "`/readyz` was answered with 503, because the broker, the store, the disk or a"
        " consumer is not ready: `part` says which, and `error` has the reason.",
        "request_outage": "A request was answered with 503, because the store, the broker or"
        " another service is unavailable: `part` says which (`store`, `broker` or `handler`), and"
        " `error` has the reason.",
        "request_crashed": "A request was answered with 500. The traceback follows. The answer"
        " contains the same `id`.",
        "connections_closed": "HTTP connections were closed, because their requests were too slow"
        " or there were too many connections.",
        "outbox_message_refused": "The broker refused a message of the outbox; `error` has the"
        " reason. This message and the later messages of its exchange and key stay in the outbox,"
        " and feedbus tries again.",
        "queue_unread": "A queue of an earlier topology has messages or bindings, and no consumer"
        " reads it. [Rename or remove a queue](../how-to/rename-queues.md) shows what to do.",
        "outbox_messages_left": "Messages of a transaction, or of a handler on a queue with"
        " `once = true`, could not be published after the commit. They stay in the outbox, and the"
        " operations process will publish them.",
        "outbox_unreadable": "The store did not answer after a commit, so the messages of the"
        " transaction were not published. They stay in the outbox, and the operations process will"
        " publish them.",
        "outbox_rows_left": "Published messages could not be removed from the outbox. They are"
        " published a second time, with the same message ids.",
        "relay_waits": "Messages cannot be published, because the store or the broker does not"
        " answer; `error` has the reason. The messages stay in the outbox, and feedbus tries again."
        " While the reason stays the same, this line is not repeated.",
        "outbox_relayed": "The relay has published messages that a process had left in the outbox.",
        "schedule_fired": "A schedule has published its message.",
        "schedule_missed": "No operations process ran at some times of a schedule. `fired` is the"
        " latest of these times within `catch_up`: only the message of this time was published."
        " If `fired` is `none`, all of them are longer ago than `catch_up`, and no message was"
        " published.",
        "schedule_failed": "A schedule cannot publish its message; feedbus tries again.",
    },
    BROKER: {
        "broker_blocked": "The broker is short of memory or disk space and blocks publishers."
        " `rabbitmq-diagnostics alarms` shows the reason; free memory or disk space.",
        "broker_unblocked": "The broker accepts messages again.",
        "tls_not_verified": "The broker's certificate is not verified, because its URL has"
        " `ssl_verify=none`. Remove this option from the URL.",
        "publishing_switched": "topology.toml has changed, so messages are now published to another"
        " ring of shards. Every host of the project needs the same file.",
        "held_messages_wait": "Messages that arrived during a switch cannot be moved to the"
        " shards yet, because the queue of a shard is full. They are moved when a consumer has read"
        " from this queue.",
        "state_damaged": "Another program has published to a queue that only feedbus uses. Stop"
        " that program, then run `feedbus apply`.",
        "misplaced": "The broker has rebuilt a ring in another order, so records of one key may be"
        " handled out of order. Run `feedbus apply`.",
        "misplaced_not_recorded": "A ring must be repaired, but feedbus could not record this on"
        " the broker. Do not run `feedbus apply` yet. feedbus tries again at the next message on a"
        " wrong shard, at the earliest after 10 s, and logs `misplaced` again. Run `feedbus apply`"
        " after a line `misplaced` that this line does not follow.",
        "messages_lost": "Messages are lost, because a program published them directly to a queue"
        " while feedbus deleted it. Let the program publish to the exchange of the queue instead.",
        "waiting_queue_kept": "A waiting queue has messages, but the queue of its shard does not"
        " exist, so no consumer reads them. feedbus did not delete the waiting queue. Publish each"
        " message to `exchange` with the value of its header `feedbus-key` as the routing key,"
        " and remove it from the queue.",
        "delivery_limit_differs": "A quorum queue has another delivery limit on the broker than"
        " feedbus declares. Run `feedbus apply`.",
        "requeue_exchange_refused": "The user of the broker may not declare exchanges, so requeued"
        " dead letters get the name of the queue as their routing key. If the handler needs the"
        " original key, allow the user to configure exchanges with the prefix of the project.",
        "dead_letters_dropped": "Dead letters were deleted because of `dead_letters.max_age` or"
        " `max_length`.",
        "dead_letters_unreadable": "The dead letters cannot be read, so old ones are not deleted;"
        " feedbus tries again.",
        "queues_declared": "New quorum queues of a ring were declared; the ring is used when these"
        " queues are on the broker's disk.",
        "timer_declared": "New exchanges and queues of the timer were declared; the first delayed"
        " message is published when these queues are on the broker's disk.",
        "undelivered_refused": "Some delayed messages are due, but the broker has refused them,"
        " perhaps because their queue is full. They are kept. Make room in the queue, then run"
        " `feedbus apply`, which sends them again.",
        "undelivered_sent": "The queue or exchange of some delayed messages was missing at the time"
        " for which they were delayed. It exists now, and the messages were sent to it.",
    },
    METRICS: {
        "no_metrics": "The folder of metric files cannot be written, so this process runs without"
        " metrics. Make the folder writable, then restart the process.",
        "metrics_in_memory": "A metric file cannot grow, so new metrics of this process are not"
        " exported. Free disk space, then restart the process.",
        "metrics_restarted": "A metric file was damaged and renamed. The counters of the process"
        " start again at 0.",
        "metrics_unreadable": "A metric file cannot be read; its metrics are missing from"
        " `/metrics`.",
    },
}


def markdown() -> str:
    """Return the catalogue in Markdown: a table of events for each group, such as "Metric files".

    docs/reference/logs.md contains the tables.
    """
    parts = []
    for group, events in EVENTS.items():
        rows = [f"| `{name}` | {meaning} |" for name, meaning in events.items()]
        parts.append("\n".join([f"### {group}", "", "| event | meaning |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"
