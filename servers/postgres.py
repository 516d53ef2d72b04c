"""A private PostgreSQL: its own folder, a free loopback port, real durability."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from servers import versions
from servers.owned import OwnedProcess
from servers.ports import free_port

START_SECONDS = 300  # only ends what never starts; a busy machine takes minutes
CONF = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 60
shared_buffers = 64MB
jit = off
"""


EMPTY = """
SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$)' LOOP
    EXECUTE format('DROP SCHEMA %I CASCADE', name);
  END LOOP;
END $$;
CREATE SCHEMA public AUTHORIZATION pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC
"""


class MissingServer(Exception):  # noqa: N818 -- what is the case
    """PostgreSQL cannot run here; the text says why and what to do."""


def installed() -> dict[int, Path]:
    """Return the folders of PostgreSQL's programs by major version, the oldest version first."""
    found: dict[int, Path] = {}
    for root in versions.roots("postgresql"):
        for programs in root.glob("usr/lib/postgresql/*/bin"):
            if (programs / "postgres").exists():
                found.setdefault(int(programs.parent.name), programs)
    on_path = shutil.which("postgres")
    if on_path is not None and not found:
        said = subprocess.run([on_path, "--version"], capture_output=True, text=True, check=True)
        found[int(re.search(r"\d+", said.stdout)[0])] = Path(on_path).parent
    return dict(sorted(found.items()))


def chosen() -> list[int]:
    """Return the major versions that the store is tested on; they may not be installed.

    Where all servers are required, 15 is always among them, so that a missing one is noticed.
    """
    required = os.environ.get("FEEDBUS_REQUIRE_SERVERS") == "1"
    oldest = 15 if required else next(iter(installed()), 15)
    return sorted({oldest, 17})


def binary(name: str, major: int | None = None) -> Path:
    """Return the path of one of PostgreSQL's programs, which Debian keeps off the path.

    Args:
        name: of the program.
        major: the major version; None for the oldest that is installed.

    """
    there = installed()
    wanted = next(iter(there), None) if major is None else major
    if wanted not in there:
        called = "PostgreSQL" if major is None else f"PostgreSQL {major}"
        msg = f"{called} is not installed: sh servers/install.sh"
        raise MissingServer(msg)
    return there[wanted] / name


@dataclass(slots=True)
class Postgres:
    """A server that can be stopped, killed and started again on the same port and data."""

    folder: Path
    port: int
    user: str | None
    major: int | None = None
    process: OwnedProcess | None = None
    created: int = 0  # databases
    empty: list[str] = field(default_factory=list)  # databases that nobody uses any more

    @classmethod
    def create(cls, major: int | None = None, more: str = "") -> Postgres:
        """Make a data folder and start a server on it.

        Args:
            major: the major version; None for the oldest that is installed.
            more: lines to add to its configuration.

        """
        initdb = binary("initdb", major)
        folder = Path(tempfile.mkdtemp(prefix="feedbus-postgres-"))
        server = cls(folder, free_port(), unprivileged(), major)
        if server.user is not None:
            shutil.chown(folder, server.user, server.user)
        server.run(
            [initdb, "-D", folder / "data", "-U", "feedbus", "--auth=trust", "-E", "UTF8", "-N"]
        )
        with (folder / "data" / "postgresql.conf").open("a") as conf:
            conf.write(f"{CONF}{more}port = {server.port}\n")
        try:
            server.start()
        except BaseException:
            server.remove()
            raise
        return server

    def run(self, command: list[object]) -> None:
        """Run a program as the server's user and raise what it says when it fails."""
        done = subprocess.run(
            [str(word) for word in command],
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user else None,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr).decode()

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = OwnedProcess(
                [str(binary("postgres", self.major)), "-D", str(self.folder / "data")],
                user=self.user,
                group=self.user,
                extra_groups=[] if self.user else None,
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "log").read_text())
            time.sleep(0.05)

    def answers(self) -> bool:
        """Whether it takes connections."""
        ready = [
            str(binary("pg_isready", self.major)),
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        return subprocess.run(ready, check=False).returncode == 0

    def stop(self) -> None:
        """Stop it, ending its clients' sessions."""
        self.end(2)  # SIGINT: the fast shutdown

    def kill(self) -> None:
        """Let it crash: no checkpoint, no goodbye."""
        self.end(3)  # SIGQUIT: the immediate shutdown, which leaves no orphans

    def end(self, signal_number: int) -> None:
        if self.process is not None:
            self.process.send_signal(signal_number)
            self.process.wait(START_SECONDS)
            self.process = None

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database in it."""
        return f"postgresql://feedbus@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Return the URL of an empty database; it may have been used before."""
        if self.empty:
            return self.url(self.empty.pop())
        name = f"feedbus_{self.created}"
        self.created += 1
        self.sql(
            f"CREATE DATABASE {name} TEMPLATE template0 LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'"
        )
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Empty a database, for the next one that is asked for, after ending the sessions in it.

        The system needs much longer to delete the 300 files of a database and to create new ones.
        """
        name = url.rpartition("/")[2]
        self.sql(f"ALTER DATABASE {name} RESET ALL")
        self.sql(EMPTY, name)
        self.empty.append(name)

    def sql(self, statement: str, database: str = "postgres") -> None:
        """Execute a statement as an operator would."""
        import psycopg2

        connection = psycopg2.connect(self.url(database))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

    def remove(self) -> None:
        """Stop it and delete its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def unprivileged() -> str | None:
    """Name the user to run as when this is root, which PostgreSQL refuses to run as."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    msg = "PostgreSQL refuses to run as root, and there is no user to run it as"
    raise MissingServer(msg)
