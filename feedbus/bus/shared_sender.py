"""Send the requests of several threads together, and try again while the broker is unavailable."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from feedbus import broker
from feedbus.broker.refused_messages import Refusal
from feedbus.bus.publish_requests import Request
from feedbus.bus.sender import Sender
from feedbus.errors import BrokerOutage, PublishError, UsageError, WrongBrokerSettings
from feedbus.generations import topology_setup
from feedbus.process.slow_server_notices import notices
from feedbus.store.key_locks import Key
from feedbus.topology import Topology
from feedbus.wire import Outgoing
from feedbus.wire.constants import PACK

RECONNECT_SECONDS = 0.1  # between two attempts during an outage


class SharedSender:
    """Sends the requests of all threads on one connection, and sets the `outcome` of each request.

    Any thread may call the methods. The object declares the topology if the broker has no objects
    of the topology, for example because the broker was replaced.

    A LiveBus has one SharedSender object.
    """

    def __init__(self, topology: Topology, sender: Sender, timeout_seconds: float) -> None:
        """Create the object; nothing is sent yet.

        Args:
            topology: the topology of the system.
            sender: a sender that only this object uses.
            timeout_seconds: how long to try again during an outage of the broker.

        """
        self._topology = topology
        self._clock = broker.clock(topology)
        self._sender = sender
        self._timeout_seconds = timeout_seconds
        # Whether the objects on the broker exist, and the encoder knows the current rings.
        self._is_set_up = False
        self._lock = threading.Lock()  # held during a send
        self._request_lock = threading.Lock()  # held while `_unsent_requests` changes
        self._unsent_requests: list[Request] = []  # requests that no thread has begun to send

    def encode_for_outbox(self, request: Request) -> Iterable[Mapping[str, Any]]:
        """Encode a request that is sent later; return the payloads that the outbox stores.

        LiveBus calls this for a publish call in a transaction. So the content of the messages does
        not change if the caller changes the payload before the commit.

        Args:
            request: the records of a publish call.

        Raises:
            UsageError: there is no such exchange, or a record cannot be published.

        """
        request.messages = self._encode(request)
        encoder = self._sender.encoder
        return encoder.outbox_payloads(request.exchange, request.pack, request.messages)

    def send(self, request: Request) -> None:
        """Send a request, and set its `outcome`.

        Requests that several threads make at the same time are sent together.

        Args:
            request: the records of a publish call.

        """
        with self._request_lock:
            self._unsent_requests.append(request)
        with self._lock:
            if request.outcome is None:
                # Requests that other threads add during a send are sent together by the next send,
                # with one wait for confirms.
                with self._request_lock:
                    together, self._unsent_requests = self._unsent_requests, []
                # If another thread has taken this request, and has failed before it set the
                # outcome, this thread sends the request itself.
                if request not in together:
                    together = [request, *together]
                self._send(together, self._timeout_seconds)

    def send_together(
        self,
        requests: Sequence[Request],
        timeout_seconds: float | None = None,
        *,
        hold_back: bool = False,
    ) -> None:
        """Send several requests in order, and set the `outcome` of each.

        Args:
            requests: the requests.
            timeout_seconds: how long to try again during an outage, in seconds. The default is the
                time limit that the constructor got.
            hold_back: whether later requests are held back if the broker refuses a message with
                the same key. Such a request is not sent, and its outcome is a PublishError.
                Adjacent requests without packs are sent together. So they are not held back because
                of each other.

        """
        seconds = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        with self._lock:
            self._send(requests, seconds, set() if hold_back else None)

    def close(self) -> None:
        """Close the connection; the next request connects again."""
        with self._lock:
            self._sender.close()

    def _send(
        self, requests: Sequence[Request], timeout_seconds: float, refused: set[Key] | None = None
    ) -> None:
        """Send requests; see send_together().

        Args:
            requests: the requests.
            timeout_seconds: how long to try again during an outage.
            refused: collects the keys of refused messages. Later requests with these keys are not
                sent. None to send all requests.

        """
        failure = self._set_up_with_retries(timeout_seconds)
        plain: list[tuple[Request, Sequence[Outgoing]]] = []
        for request in requests:
            if failure is not None:
                request.outcome = _copy_of(failure)
                continue
            try:
                messages = self._encode(request)
            except Exception as error:  # noqa: BLE001 -- this request's caller gets it
                request.outcome = error
                continue
            if any(message.content_type == PACK for message in messages):
                # A request with packs is sent alone: if the broker returned a pack, plain messages
                # that are sent with the pack could overtake its records. The plain messages of
                # earlier requests are sent first, because they can have the same keys.
                failure = self._send_plain(plain, timeout_seconds)
                if refused is not None:
                    refused.update(*(sent.refused_keys() for sent, _ in plain))
                plain = []
                if failure is not None:
                    request.outcome = _copy_of(failure)
                    continue
                if refused and not refused.isdisjoint(request.keys):
                    _hold_back(request, refused)
                    continue
                # This request was sent alone, so all refused messages belong to it. The refused
                # messages are not compared with `messages`: if the sender has sent a pack again as
                # plain messages, a refused plain message is not in `messages`.
                request.outcome = answer = self._send_with_retries(messages, timeout_seconds)
                failure = answer if isinstance(answer, BrokerOutage) else None
                if refused is not None:
                    refused.update(request.refused_keys())
            elif refused and not refused.isdisjoint(request.keys):
                _hold_back(request, refused)
            else:
                plain.append((request, messages))
        self._send_plain(plain, timeout_seconds)

    def _send_plain(
        self, plain: Sequence[tuple[Request, Sequence[Outgoing]]], timeout_seconds: float
    ) -> BrokerOutage | None:
        """Send the messages of several requests together, and set the `outcome` of each request.

        Args:
            plain: the requests, each with its messages, of which none is a pack.
            timeout_seconds: how long to try again during an outage.

        Returns:
            The outage, if there was one.

        """
        if not plain:
            return None
        answer = self._send_with_retries(
            [message for _, request_messages in plain for message in request_messages],
            timeout_seconds,
        )
        for request, sent in plain:
            if isinstance(answer, Exception):
                request.outcome = _copy_of(answer)
            else:
                own_messages = set(map(id, sent))
                request.outcome = [each for each in answer if id(each.message) in own_messages]
        return answer if isinstance(answer, BrokerOutage) else None

    def _encode(self, request: Request) -> Sequence[Outgoing]:
        encoder = self._sender.encoder
        if request.messages is None:
            return encoder.encode(request.exchange, request.pack, request.envelope)
        return encoder.for_current_ring(request.exchange, request.messages, request.envelope)

    def _set_up_with_retries(self, timeout_seconds: float) -> Exception | None:
        """Read the current rings, and declare the topology if the broker has nothing of it.

        Return the error if the set-up is not possible within the time limit, else None.
        """
        for _ in self._attempts(timeout_seconds):
            try:
                self._set_up()
            except (WrongBrokerSettings, UsageError) as error:
                return error
            except BrokerOutage as error:
                failure: Exception = error
            else:
                return None
        return failure

    def _set_up(self) -> None:
        if not self._is_set_up:
            for state in topology_setup.set_up_if_missing(self._topology).values():
                self._sender.encoder.use_generation(state.pack_generation)
            self._is_set_up = True

    def _send_with_retries(
        self, messages: Sequence[Outgoing], timeout_seconds: float
    ) -> list[Refusal] | Exception:
        """Send messages, repeatedly in an outage; return the refused messages, or the error.

        After an outage, the broker may be a new one without any objects. So each attempt after an
        outage begins with _set_up().
        """
        for _ in self._attempts(timeout_seconds):
            try:
                self._set_up()
                return self._sender.send(messages)
            except UsageError as error:
                return error
            except BrokerOutage as error:
                self._is_set_up = False
                if isinstance(error, WrongBrokerSettings):
                    return error
                failure: Exception = error
        return failure

    def _attempts(self, timeout_seconds: float) -> Iterator[None]:
        """Yield for each attempt: once immediately, then every RECONNECT_SECONDS to the time limit.

        The caller stops the iteration when an attempt has succeeded.
        """
        deadline = self._clock.monotonic() + timeout_seconds
        yield
        url = self._topology.broker_url
        text = f"broker {url} is not available; trying again for at most {timeout_seconds:.0f} s"
        with notices.during(text):
            while self._clock.monotonic() <= deadline:
                self._clock.sleep(RECONNECT_SECONDS)
                yield


def _hold_back(request: Request, refused: set[Key]) -> None:
    """Set the error of a request that is not sent, and hold back later requests with its keys."""
    reason = "the broker refused an earlier message of the same key"
    request.outcome = PublishError([(each, reason) for each in request.pack.ids])
    refused.update(request.keys)


def _copy_of(error: Exception) -> Exception:
    """Return a copy of an error: several threads must not raise the same object."""
    return type(error)(str(error))
