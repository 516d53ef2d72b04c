"""`python -m bench.delays`: messages that wait in the timer and become due at a constant rate.

A process publishes them with delays, so that message n is due at a common start plus n / rate.
Usually, all are published before the first one is due. A consumer with a prefetch of 1,000 records
how late each arrives: the time of arrival minus the requested time. This includes the timer's
rounding. RabbitMQ has the `advanced.config` that `feedbus init` writes, and the timer's queues are
declared before. The memory is the resident memory of the broker's processes (or, with --embedded,
of the consumer, in whose process the broker runs).
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import click
import psutil

from feedbus import broker
from feedbus.broker import timer
from feedbus.broker.timer_objects import Timer
from feedbus.broker_names import Names
from feedbus.bus.sender import Sender
from feedbus.topology import Exchange, Queue, Topology
from feedbus.urls import parse_broker_url
from feedbus.wire import Outgoing
from feedbus.wire.amqp_protocols import Channel
from servers.rabbitmq import RabbitMQ
from servers.versions import installed

PREFETCH = 1_000
ACKNOWLEDGED_AT_ONCE = 200
PUBLISHED_AT_ONCE = 1_000
LONGEST_OF_PLACES = (2**12 - 1, 2**16 - 16, 2**24 - 256)  # in ms; together, up to 4.6 hours
SPARE_SECONDS = 15.0
SAMPLE_SECONDS = 2.0
SILENT_SECONDS = 240.0  # longer than RabbitMQ waits before it forwards a message again


@dataclass(frozen=True, slots=True)
class Sample:
    """The memory and time that the broker had used at a time since the start of publishing."""

    seconds: float
    memory_bytes: int
    processor_seconds: float
    arrived: int


@dataclass(slots=True)
class Run:
    """The measurements of a run so far."""

    messages: int
    rate: float
    first_due: float
    started: float = field(default_factory=time.time)
    published_seconds: float = 0.0
    late: array[float] = field(default_factory=lambda: array("d"))
    twice: int = 0
    samples: list[Sample] = field(default_factory=list)

    def due(self, number: int) -> float:
        """Return when a message is due, in seconds of the wall clock."""
        return self.first_due + number / self.rate


def topology(url: str, folder: Path) -> Topology:
    """Return one exchange and its queue."""
    return Topology(
        path=folder / "topology.toml",
        name="bench",
        broker_url=parse_broker_url(url),
        exchanges={"work": Exchange("work", "direct")},
        queues={"work": Queue("work", "work", "bench:none", ("k",))},
    )


def warm_up(connection: broker.Connection, system: Topology) -> None:
    """Declare the timer's queues: the first messages that need them would wait for the disk."""
    names = Names(system)
    target = timer.exchange_target(names, "work")
    message = Outgoing("", "k", b"", None, "")
    messages = [
        timer.delay_message(names, message, longest, target) for longest in LONGEST_OF_PLACES
    ]
    Timer(system).declare(cast("Channel", connection.default_channel), messages)


def publish(url: str, folder: Path, run: Run) -> None:
    """Publish every message of a run, each delayed until it is due."""
    system = topology(url, folder)
    names, sender = Names(system), Sender(system)
    target = timer.exchange_target(names, "work")
    for start in range(0, run.messages, PUBLISHED_AT_ONCE):
        numbers = range(start, min(start + PUBLISHED_AT_ONCE, run.messages))
        now = time.time()
        plain = (
            Outgoing("", "k", b'{"n": %d}' % number, "application/json", f"bench:{number}")
            for number in numbers
        )
        waits = (max(1, round((run.due(number) - now) * 1_000)) for number in numbers)
        refused = sender.send(
            timer.delay_message(names, message, wait, target)
            for message, wait in zip(plain, waits, strict=True)
        )
        assert not refused, refused[0]
    sender.close()


def consume(system: Topology, run: Run) -> None:
    """Receive messages until all have arrived, or none has arrived for a long time."""
    seen = bytearray(run.messages)
    with broker.connect(system) as connection:
        channel = connection.channel()
        channel.basic_qos(0, PREFETCH, False)
        unacknowledged = 0

        def take(message: object) -> None:
            nonlocal unacknowledged
            now = time.time()
            number = int(json.loads(message.body)["n"])  # type: ignore[attr-defined]
            if seen[number]:
                run.twice += 1
            else:
                seen[number] = 1
                run.late.append(now - run.due(number))
            unacknowledged += 1
            if unacknowledged >= ACKNOWLEDGED_AT_ONCE:
                channel.basic_ack(message.delivery_tag, multiple=True)  # type: ignore[attr-defined]
                unacknowledged = 0

        channel.basic_consume(Names(system).queue(system.consumers["work"]), callback=take)
        last = time.monotonic()
        while len(run.late) < run.messages and time.monotonic() < last + SILENT_SECONDS:
            arrived = len(run.late)
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=0.2)
            if arrived < len(run.late) or time.time() < run.first_due:
                last = time.monotonic()


def sample(processes: Sequence[psutil.Process], run: Run, over: threading.Event) -> None:
    """Measure memory and processor time of processes and their children until the run is over."""
    while not over.wait(SAMPLE_SECONDS):
        memory, processor = 0, 0.0
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                for each in (process, *process.children(recursive=True)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        memory += each.memory_info().rss
                        times = each.cpu_times()
                        processor += times.user + times.system
        seconds = time.time() - run.started
        run.samples.append(Sample(seconds, memory, processor, len(run.late)))


@contextlib.contextmanager
def brokers(folder: Path, *, embedded: bool) -> Iterator[tuple[str, psutil.Process]]:
    """Run a broker: its URL, and the process whose memory counts."""
    if embedded:
        yield f"sqlite:///{folder / 'broker.db'}", psutil.Process(os.getpid())
        return
    node = RabbitMQ(folder, version=installed()[-1])
    with node:
        yield node.url, psutil.Process(node.session)


def measure(
    messages: int, rate: float, publish_rate: float, folder: Path, *, embedded: bool
) -> Run:
    """Publish and consume, and return the measured values."""
    with brokers(folder, embedded=embedded) as (url, process):
        system = topology(url, folder)
        with broker.connect(system) as connection:
            broker.declare(connection.default_channel, system)
            warm_up(connection, system)
        run = Run(messages, rate, time.time() + SPARE_SECONDS + messages / publish_rate)
        publisher = multiprocessing.get_context("spawn").Process(
            target=publish, args=(url, folder, run)
        )
        over = threading.Event()
        watch = threading.Thread(target=sample, args=([process], run, over))

        def wait() -> None:
            publisher.join()
            run.published_seconds = time.time() - run.started

        waiting = threading.Thread(target=wait)
        publisher.start()
        watch.start()
        waiting.start()
        consume(system, run)
        waiting.join()
        over.set()
        watch.join()
        assert publisher.exitcode == 0
    return run


def report(run: Run) -> dict[str, object]:
    """Return the results of a run."""
    late = sorted(run.late)
    begins = run.first_due - run.started
    ends = begins + run.messages / run.rate
    falling = [each for each in run.samples if begins <= each.seconds <= ends]
    quarter = max(1, len(falling) // 4)
    figures: dict[str, object] = {
        "messages": run.messages,
        "rate": run.rate,
        "published_seconds": round(run.published_seconds, 1),
        "first_due_seconds": round(begins, 1),
        "missing": run.messages - len(late),
        "twice": run.twice,
    }
    if late:
        figures["late_seconds"] = {
            name: round(late[min(len(late) - 1, int(len(late) * part))], 3)
            for name, part in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999))
        } | {"most": round(late[-1], 3), "least": round(late[0], 3)}
    if falling:
        figures["memory_mb"] = {
            "before": _mb(run.samples[0].memory_bytes),
            "most_while_publishing": _mb(
                max(each.memory_bytes for each in run.samples if each.seconds <= begins)
            ),
            **{
                f"quarter_{number + 1}_mean": _mb(
                    sum(each.memory_bytes for each in falling[part : part + quarter]) / quarter
                )
                for number, part in enumerate(range(0, 4 * quarter, quarter))
            },
            "most_while_due": _mb(max(each.memory_bytes for each in falling)),
        }
        first, last = falling[0], run.samples[-1]
        figures["processor_us_per_message_due"] = round(
            (last.processor_seconds - first.processor_seconds)
            / max(1, last.arrived - first.arrived)
            * 1e6
        )
    minutes = {int(each.seconds // 60): each for each in run.samples}
    figures["by_minute"] = [
        {"minute": minute, "memory_mb": _mb(each.memory_bytes), "arrived": each.arrived}
        for minute, each in minutes.items()
    ]
    return figures


def _mb(count: float) -> int:
    return round(count / 1e6)


@click.command()
@click.option("--messages", default=1_000_000, show_default=True)
@click.option("--rate", default=1_000.0, show_default=True, help="Messages a second that fall due.")
@click.option("--publish-rate", default=1_500.0, show_default=True, help="Expected, a second.")
@click.option("--embedded", is_flag=True, help="On the embedded broker instead of RabbitMQ.")
def main(messages: int, rate: float, publish_rate: float, *, embedded: bool) -> None:
    """Measure, and print the results as JSON."""
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        run = measure(messages, rate, publish_rate, Path(folder), embedded=embedded)
    figures = report(run)
    figures["load"] = {"before": load, "after": os.getloadavg()}
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
