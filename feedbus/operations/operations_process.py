"""The operations process: HTTP, the outbox relay, schedules, assignment of shards."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from urllib.parse import urlsplit

from feedbus.bus import LiveBus
from feedbus.errors import FeedbusError
from feedbus.hosts.announcer import Announcer
from feedbus.logs import EventLog
from feedbus.metrics import Metrics
from feedbus.operations.access_control import Guard, guard_of
from feedbus.operations.http_server import Address, CannotListen, Server, bind, url
from feedbus.operations.queue_depths import QueueDepths
from feedbus.operations.routes import application
from feedbus.operations.url_file import last_url, write_url
from feedbus.operations.wsgi_application import Application
from feedbus.process.slots import hold_slot
from feedbus.process.status_files import mark_holding, mark_ready
from feedbus.schedules.scheduler import Scheduler
from feedbus.store import Store, open_store
from feedbus.store.relay import Relay
from feedbus.topology import OPERATIONS, OPERATIONS_PORT, Topology

events = EventLog(__name__)

MakeApplication = Callable[[Guard], Application]  # returns an application; the guard checks access

THREADS = 4  # how many requests are answered at the same time
TRY_AGAIN_SECONDS = 5.0  # the time between two attempts to listen on the address
# How long one publish may take. After a signal, the process has more time than this to end.
PUBLISH_SECONDS = 2.0
HOST_OPTION = "host in [operations]"
PORT_OPTION = "port in [operations] or by FEEDBUS_OPERATIONS_PORT"


def run(topology: Topology, host: str, port: int | None, *, supervised: bool) -> None:
    """Run the operations process until SIGTERM or SIGINT, for `feedbus operations`.

    Args:
        topology: the topology of the system.
        host: the address to listen on.
        port: the port; 0 stands for any free port. None stands for OPERATIONS_PORT. If another
            program uses OPERATIONS_PORT, this process takes the port of the previous operations
            process, or any free port.
        supervised: True to try again if the address cannot be used; False to raise an error.

    Raises:
        SlotTaken: another operations process uses the same folder `var`.
        CannotListen: `supervised` is False, and the address is in use or does not exist.
        UsageError: `supervised` is False, other machines can reach the address, and no token is
            set.

    """
    with hold_slot(topology, OPERATIONS, 1):
        store = open_store(topology, application_name="feedbus operations")
        try:
            with (
                QueueDepths(topology) as depths,
                _publishing(topology, store),
                Announcer(topology),
            ):
                server = OperationsServer(topology, host, port, supervised=supervised)
                for number in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(number, server.on_signal)
                server.serve(lambda guard: application(topology, store, depths, guard))
        finally:
            store.close()
    events.info("operations_stopped", "the operations process has stopped")


@contextmanager
def _publishing(topology: Topology, store: Store) -> Iterator[None]:
    """In a `with` block, relay the outbox and fire schedules."""
    with contextlib.ExitStack() as stack:
        if topology.store is not None or topology.schedules:
            metrics = stack.enter_context(Metrics.open(topology.var / "metrics", OPERATIONS))
            bus = stack.enter_context(LiveBus(topology, metrics, timeout_seconds=PUBLISH_SECONDS))
            if topology.store is not None:
                stack.enter_context(Relay(topology, store, bus))
            if topology.schedules:
                stack.enter_context(Scheduler(topology, bus, metrics))
        yield


class OperationsServer:
    """Runs the HTTP server of the operations process; the process has one OperationsServer object.

    If a supervisor has started the process, the object tries again until the address can be used.
    """

    def __init__(
        self, topology: Topology, host: str, port: int | None, *, supervised: bool
    ) -> None:
        """Create the server.

        Args:
            topology: the topology of the system.
            host: the address to listen on.
            port: the port; 0 stands for any free port. None stands for OPERATIONS_PORT. If another
                program uses OPERATIONS_PORT, this process takes the port of the previous operations
                process, or any free port.
            supervised: True to try again if the address cannot be used; False to raise an error.

        """
        self._topology = topology
        self._host, self._port = host, port
        self._supervised = supervised
        self._stopping = threading.Event()
        self._server: Server | None = None

    def on_signal(self, number: int, _: FrameType | None) -> None:
        """Stop the server after the running requests have been answered.

        The method is the handler of SIGTERM and SIGINT.

        Args:
            number: the number of the signal.
            _: not used.

        """
        name = signal.Signals(number).name
        text = f"received {name}; the process ends after the current requests"
        events.info("operations_stopping", text, signal=name)
        self._stopping.set()
        if self._server is not None:
            self._server.stop()

    def serve(self, make_application: MakeApplication) -> None:
        """Answer requests until SIGTERM or SIGINT arrives.

        Args:
            make_application: returns the WSGI application. Its argument is the guard, which checks
                the requests.

        Raises:
            CannotListen: the address is in use or does not exist, and no supervisor runs this
                process.
            UsageError: other machines can reach the address, no token is set, and no supervisor
                runs this process.

        """
        listening = self._wait_for_address()
        if listening is None:
            return
        listener, guard = listening
        with listener:
            server = self._server = Server(make_application(guard), listener, threads=THREADS)
            if self._stopping.is_set():  # the signal came before on_signal() could use the server
                server.stop()
            where = url(self._host, server.port)
            write_url(self._topology, where)
            events.info("listening", f"listening on {where}", url=where)
            mark_ready()
            server.run()

    def _wait_for_address(self) -> tuple[socket.socket, Guard] | None:
        """Call listen() until it succeeds; return None if the process is stopped first."""
        latest = ""
        while not self._stopping.is_set():
            try:
                listening = self.listen()
            except FeedbusError as error:
                if not self._supervised:
                    raise
                if str(error) != latest:
                    latest = str(error)
                    events.error(
                        "not_listening",
                        "the HTTP address cannot be used, so this host has no metrics and no"
                        f" operations page; feedbus tries again every {TRY_AGAIN_SECONDS:.0f} s",
                        error=latest,
                    )
                    mark_holding(latest)
                    mark_ready()  # the relay and the schedules still work
                self._stopping.wait(TRY_AGAIN_SECONDS)
            else:
                if latest:
                    mark_holding("")
                return listening
        return None

    def listen(self) -> tuple[socket.socket, Guard]:
        """Try once to listen on the address; serve() calls the method until it succeeds.

        Returns:
            A listening socket, and the guard that checks requests.

        Raises:
            CannotListen: the address is in use, or does not exist.
            UsageError: other machines can reach the address, and no token is set.

        """
        wanted = OPERATIONS_PORT if self._port is None else self._port
        address = Address(self._host, wanted, HOST_OPTION, PORT_OPTION)
        try:
            listener = bind(address)
        except CannotListen:
            if self._port is not None:
                raise
            listener = self._bind_to_another()
            used = listener.getsockname()[1]
            events.info(
                "port_taken",
                f"port {wanted} is in use by another program, so this process listens on port"
                f" {used}; `feedbus status` shows the address",
                port=used,
            )
        try:
            return listener, guard_of(listener, address, os.environ)
        except FeedbusError:
            listener.close()
            raise

    def _bind_to_another(self) -> socket.socket:
        """Return a socket on the port of the previous operations process, or on any free port.

        If this process has the same port as before a restart, Prometheus and browsers can still use
        the same address.
        """
        latest = urlsplit(last_url(self._topology)).port
        with contextlib.suppress(CannotListen):
            if latest:
                return bind(Address(self._host, latest, HOST_OPTION, PORT_OPTION))
        return bind(Address(self._host, 0, HOST_OPTION, PORT_OPTION))
