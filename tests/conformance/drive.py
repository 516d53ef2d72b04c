"""Short functions on a channel, for conformance tests."""

from __future__ import annotations

import contextlib

from feedbus.clock import SystemClock

DEADLINE_SECONDS = 240  # only ends a test whose condition will never be true
QUIET_SECONDS = 0.3
clock = SystemClock()  # of the broker under test


def link(channel):
    """The connection that a channel's events arrive on."""
    return channel.connection


def drain_until(channel, reached, seconds=DEADLINE_SECONDS):
    """Process events until reached() is true; fail if it does not become true."""
    deadline = clock.monotonic() + seconds
    while not reached():
        assert clock.monotonic() < deadline, "what was waited for did not happen"
        with contextlib.suppress(TimeoutError):
            link(channel).drain_events(timeout=0.2)


def drain_quietly(channel, seconds=QUIET_SECONDS):
    """Process all events that have arrived."""
    deadline = clock.monotonic() + seconds
    while (left := deadline - clock.monotonic()) > 0:
        try:
            link(channel).drain_events(timeout=left)
        except TimeoutError:
            return


def eventually(found, seconds=DEADLINE_SECONDS):
    """Return the result of found() when it is true."""
    deadline = clock.monotonic() + seconds
    while not (result := found()):
        assert clock.monotonic() < deadline, "what was waited for did not happen"
        clock.sleep(0.02)
    return result


def make(channel, body, *, headers=None, **properties):
    """Create a message; its body is sent as bytes."""
    body = body.encode() if isinstance(body, str) else body
    named = {
        name: properties.pop(name)
        for name in ("priority", "content_type", "content_encoding")
        if name in properties
    }
    return channel.prepare_message(body, headers=headers, properties=properties, **named)


class Publisher:
    """Publishes on a channel in confirm mode, and records the outcome of each message."""

    def __init__(self, channel):
        self.channel = channel
        self.sent = 0
        self.reported = []  # ("ack" or "nack", tag, multiple) and ("return", exchange, key, body)
        self._open = set()
        channel.events["basic_ack"].add(lambda tag, multiple: self._settle("ack", tag, multiple))
        channel.events["basic_nack"].add(lambda tag, multiple: self._settle("nack", tag, multiple))
        channel.events["basic_return"].add(
            lambda _, exchange, key, message: self.reported.append(
                ("return", exchange, key, message.body)
            )
        )
        channel.confirm_select()

    def _settle(self, verdict, tag, multiple):
        for each in sorted(self._open):
            if each == tag or (multiple and each <= tag):
                self._open.discard(each)
                self.reported.append((verdict, each))

    def send(self, body, exchange="", key="", *, mandatory=False, headers=None, **properties):
        message = make(self.channel, body, headers=headers, **properties)
        self.channel.basic_publish(message, exchange, key, mandatory=mandatory)
        self.sent += 1
        self._open.add(self.sent)

    def wait(self):
        """Wait until each message is acked or nacked; return the acked messages."""
        drain_until(self.channel, lambda: not self._open)
        return [each[1] for each in self.reported if each[0] == "ack"]

    @property
    def returned(self):
        return [each[1:] for each in self.reported if each[0] == "return"]

    @property
    def nacked(self):
        return [each[1] for each in self.reported if each[0] == "nack"]


def put(channel, queue, *bodies, **properties):
    """Publish to a queue and wait for the confirms, on a separate channel."""
    with link(channel).channel() as own:
        publisher = Publisher(own)
        for body in bodies:
            publisher.send(body, key=queue, **properties)
        publisher.wait()


def queue(channel, name, **arguments):
    """Declare a durable queue; keywords are x-arguments with _ for -."""
    given = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
    channel.queue_declare(name, durable=True, auto_delete=False, arguments=given)
    return name


def quorum(channel, name, **arguments):
    """Declare a quorum queue."""
    return queue(channel, name, queue_type="quorum", **arguments)


def exchange(channel, name, kind, **arguments):
    """Declare a durable exchange; keywords are arguments with _ for -."""
    given = {key.replace("_", "-"): value for key, value in arguments.items()}
    channel.exchange_declare(name, kind, durable=True, auto_delete=False, arguments=given)
    return name


def consume(channel, name, *, prefetch=0, tag="", no_ack=False):
    """Start a consumer; return the list that its deliveries are added to."""
    got = []
    channel.basic_qos(0, prefetch, False)
    channel.basic_consume(name, consumer_tag=tag, callback=got.append, no_ack=no_ack)
    return got


def take(channel, name, *, no_ack=True):
    """Get one message, waiting for it."""
    return eventually(lambda: channel.basic_get(name, no_ack=no_ack))


def contents(channel, name):
    """Take all ready messages of a queue; return the bodies in order."""
    found = []
    while (message := channel.basic_get(name, no_ack=True)) is not None:
        found.append(text(message))
    return found


def depth(channel, name):
    """Count the ready messages of a queue."""
    return channel.queue_declare(name, passive=True).message_count


def text(message):
    """The body as text, which py-amqp gives as bytes where no encoding is declared."""
    return message.body.decode() if isinstance(message.body, bytes) else message.body


def raw(message):
    """The body as bytes; py-amqp gives an empty one as text."""
    return message.body.encode() if isinstance(message.body, str) else message.body


def texts(messages):
    return [text(message) for message in messages]


def tag(message):
    return message.delivery_info["delivery_tag"]


def redelivered(message):
    return bool(message.delivery_info["redelivered"])
