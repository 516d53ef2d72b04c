"""A private RabbitMQ with its own folder, ports on loopback and epmd, which are removed later."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import amqp

from servers import versions
from servers.compose import PROJECT
from servers.owned import OwnedProcess
from servers.ports import free_port
from servers.versions import Version

SHIPPED = PROJECT / "feedbus/new_project/files/rabbitmq"
PLUGINS = ("rabbitmq_consistent_hash_exchange", "rabbitmq_management")
START_SECONDS = 300  # only ends what never starts; a busy machine takes minutes
STOP_SECONDS = 30
USER, PASSWORD = "guest", "guest"


class Epmd:
    """An Erlang port mapper of our own; nodes of one cluster share one."""

    def __init__(self, version: Version) -> None:
        self.port = free_port()
        self._process = OwnedProcess(
            [version.erlang / "epmd", "-port", str(self.port), "-address", "127.0.0.1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(STOP_SECONDS)


class RabbitMQ:
    """One node. `with RabbitMQ(folder) as node:` starts it and ends it.

    Args:
        folder: an empty folder for all that it writes.
        name: the first part of the node's name.
        config: lines to add to rabbitmq.conf.
        epmd: a port mapper to share, as nodes of one cluster do; None for one of its own.
        cookie: the secret that nodes of one cluster share; None for a new one.
        schedulers: how many processors its Erlang may use at once; None for all.
        version: the version to start; None for the first that this run of the tests is to use.

    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "feedbus",
        config: str = "",
        epmd: Epmd | None = None,
        cookie: str | None = None,
        schedulers: int | None = None,
        version: Version | None = None,
    ) -> None:
        found = version or versions.default()
        assert found is not None, "no RabbitMQ is installed"
        self.version = found
        self._schedulers = "" if schedulers is None else f" +S {schedulers}:{schedulers}"
        self.folder = folder
        self.node = f"{name}@localhost"
        self.port, self.management_port, self.distribution_port = (free_port() for _ in range(3))
        self._own_epmd = Epmd(found) if epmd is None else None
        self._epmd = epmd or self._own_epmd
        self._process: OwnedProcess | None = None
        self._cookie = cookie or secrets.token_hex(16)
        self._write(config, self._cookie)

    def _write(self, config: str, cookie: str) -> None:
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "management.tcp.ip = 127.0.0.1\n"
            f"management.tcp.port = {self.management_port}\n"
            "disk_free_limit.absolute = 1MB\n"
            f"{config}"
        )
        shutil.copy(SHIPPED / "advanced.config", self.folder)
        (self.folder / "enabled_plugins").write_text(f"[{','.join(PLUGINS)}].\n")
        secret = self.folder / ".erlang.cookie"
        secret.write_text(cookie)
        secret.chmod(0o400)

    @property
    def url(self) -> str:
        """The URL that feedbus takes."""
        return f"amqp://{USER}:{PASSWORD}@127.0.0.1:{self.port}//"

    @property
    def session(self) -> int:
        """The session of the node's processes, which leads to no other."""
        assert self._process is not None
        return self._process.pid

    @property
    def management_url(self) -> str:
        """The URL of the management API."""
        return f"http://127.0.0.1:{self.management_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the server and its tools run under."""
        assert self._epmd is not None
        return {
            "PATH": f"{self.version.erlang}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd.port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none.conf"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.folder / "generated"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(self.folder / "feature_flags"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1}"
                f" +sbwt none +sbwtdcpu none +sbwtdio none{self._schedulers}"
            ),
        }

    def start(self) -> None:
        """Start the node and wait until it takes connections; it keeps what it had."""
        with (self.folder / "console").open("ab") as console:
            self._process = OwnedProcess(
                [self.version.scripts / "rabbitmq-server"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                console = (self.folder / "console").read_text(errors="replace")[-3000:]
                msg = f"RabbitMQ did not start in {START_SECONDS} seconds:\n{console}"
                raise RuntimeError(msg)
            time.sleep(0.2)
        for flag in self.version.flags:
            self.control("enable_feature_flag", "--experimental", flag)

    def is_ready(self) -> bool:
        """Return whether clients and the management API get answers."""
        try:
            with amqp.Connection(
                f"127.0.0.1:{self.port}", userid=USER, password=PASSWORD, connect_timeout=5
            ):
                pass
            self.get("/api/overview")
        except (OSError, amqp.AMQPError, urllib.error.URLError):
            return False
        return True

    def get(self, path: str) -> bytes:
        """Return what the management API answers to GET."""
        return self.request("GET", path)

    def request(self, method: str, path: str, body: object = None) -> bytes:
        """Send a request with a body of JSON to the management API and return its answer."""
        token = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"{self.management_url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=START_SECONDS) as answer:
            return bytes(answer.read())

    @contextlib.contextmanager
    def virtual_host(self, **settings: str) -> Iterator[str]:
        """Make an empty virtual host, return its name, and delete it with all that it holds."""
        name = uuid.uuid4().hex
        self.request("PUT", f"/api/vhosts/{name}", settings)
        rights = dict.fromkeys(("configure", "write", "read"), ".*")
        self.request("PUT", f"/api/permissions/{name}/{USER}", rights)
        try:
            yield name
        finally:
            self.request("DELETE", f"/api/vhosts/{name}")

    def control(self, *arguments: str, tool: str = "rabbitmqctl") -> str:
        """Run rabbitmqctl, or another of RabbitMQ's tools, against this node."""
        return self._run([self.version.scripts / tool, "-n", self.node, *arguments])

    def _run(self, command: list[str | Path], given: str = "") -> str:
        """Run a command of RabbitMQ or Erlang with a standard input, and return its output."""
        done = subprocess.run(
            command,
            input=given,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=True,
        )
        return done.stdout

    def evaluate(self, expression: str) -> str:
        """Evaluate an Erlang expression in this node and return its value as text.

        It takes a hundredth of the processor time of rabbitmqctl, which starts an Erlang of its
        own.

        Args:
            expression: without the full stop at its end.

        Raises:
            RuntimeError: the expression has failed.

        """
        call = self.version.erlang / "erl_call"
        options = ["-sname", self.node, "-c", self._cookie, "-r", "-e"]
        output = self._run([call, *options], f"{expression}.\n")
        kind, _, value = output.strip().removesuffix("}").partition(", ")
        if kind != "{ok":
            raise RuntimeError(output)
        return value

    def close_connections(self) -> None:
        """Close all connections of clients, as `rabbitmqctl close_all_connections` does."""
        connections = "rabbit_networking:connections()"
        self.evaluate(f'rabbit_networking:close_connections({connections}, "an operator did it")')

    def unacknowledged(self, end: str) -> int:
        """Return how many messages consumers hold of the queues whose names end so."""
        counts = self.evaluate(
            "[rabbit_amqqueue:info(Q, [messages_unacknowledged]) || Q <- rabbit_amqqueue:list(),"
            f' lists:suffix("{end}", binary_to_list(element(4, amqqueue:get_name(Q))))]'
        )
        return sum(map(int, re.findall(r"messages_unacknowledged,\s*(\d+)", counts)))

    def stop(self) -> None:
        """End the node in order."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End the node at once, as a power cut would."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_SECONDS)
        self._process = None

    def restart(self) -> None:
        """Stop in order and start again on the same ports."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End the node and its port mapper; nobody will miss what it had."""
        self.kill()
        if self._own_epmd is not None:
            self._own_epmd.close()
            self._own_epmd = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
