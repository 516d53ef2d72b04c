"""The store behind PgBouncer, which gives each transaction any of its connections."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from feedbus.store.peewee import PeeweeStore
from servers.ports import free_port
from tests.projects import wait_until
from tests.required_servers import missing

pytestmark = pytest.mark.integration

SETTINGS = """
[databases]
{name} = user=feedbus host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = any
pool_mode = transaction
default_pool_size = 3
unix_socket_dir =
"""


@pytest.fixture
def pooled_url(postgres):
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        missing("PgBouncer is not installed: apt-get install pgbouncer")
    name = postgres.new_database().rpartition("/")[2]
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="feedbus-pgbouncer-"))
    folder.chmod(0o755)  # as root it changes to the server's user
    (folder / "settings.ini").write_text(
        SETTINGS.format(name=name, server=postgres.port, port=port)
    )
    user = ["-u", postgres.user] if os.getuid() == 0 else []
    with subprocess.Popen(
        [program, "-q", *user, folder / "settings.ini"], stderr=subprocess.DEVNULL
    ) as process:
        wait_until(lambda: listens(port))
        yield f"postgresql://feedbus@127.0.0.1:{port}/{name}"
        process.terminate()
    shutil.rmtree(folder)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def test_the_store_works_when_each_transaction_has_another_connection(pooled_url):
    store, other = (PeeweeStore(pooled_url, "shop") for _ in range(2))
    store.set_up()
    with store.transaction():
        entry = store.outbox.put("orders", {"n": 1})
        assert store.inbox.add_new("work", ["a", "b"]) == ["a", "b"]
    with store.exclusive("relay") as held, other.exclusive("relay") as also:
        assert (held, also) == (True, False)
    with other.exclusive("relay") as held:
        assert held
        assert other.outbox.pending() == [entry]
    assert store.inbox.add_new("work", ["a", "c"]) == ["c"]
    store.close()
    other.close()


def test_no_session_of_the_server_is_taken_for_that_of_a_pooled_connection(pooled_url):
    store = PeeweeStore(pooled_url, "shop")
    store.ready()
    assert store.database.connection().server_session is None
    store.close()


def test_of_several_hosts_the_one_that_can_be_written_to_is_used(postgres):
    url = postgres.new_database()
    nobody, name = free_port(), url.rpartition("/")[2]
    hosts = f"127.0.0.1:{nobody},127.0.0.1:{postgres.port}"
    store = PeeweeStore(
        f"postgresql://feedbus@{hosts}/{name}?target_session_attrs=read-write", "shop"
    )
    store.ready()
    store.close()
