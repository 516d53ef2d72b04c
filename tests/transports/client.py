"""A process of its own that uses a broker file, controlled by lines on stdin.

Run by the tests that kill it: `python client.py FILE`. Each line is a JSON list, a word and its
arguments; each is answered by a line of JSON. `consume QUEUE PREFETCH` never settles anything.
"""

from __future__ import annotations

import json
import os
import sys
import time

from kombu.connection import Connection

from feedbus.transports.sqlite import Transport


def answer(reported):
    sys.stdout.write(json.dumps(reported) + "\n")
    sys.stdout.flush()


def consume(channel, queue, prefetch, wanted):
    got = []
    channel.basic_qos(0, prefetch, False)
    channel.basic_consume(queue, callback=got.append)
    answer("consuming")
    while len(got) < wanted:
        try:
            channel.connection.drain_events(timeout=60)
        except TimeoutError:
            continue
    return [[message.body.decode(), bool(message.delivery_info["redelivered"])] for message in got]


def declare(channel, queue):
    return channel.queue_declare(queue, durable=True, auto_delete=False).message_count


def fork(channel):
    """Leave behind a child that outlives this process."""
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    return child


WORDS = {"consume": consume, "declare": declare, "fork": fork}


def main():
    connection = Connection(transport=Transport, virtual_host=sys.argv[1])
    channel = connection.channel()
    answer("connected")
    for line in sys.stdin:
        word, *arguments = json.loads(line)
        answer(WORDS[word](channel, *arguments))
    connection.release()


if __name__ == "__main__":
    main()
