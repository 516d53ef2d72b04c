"""A file that gets other content keeps its place, its owner and its mode."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from feedbus.config.overwriting import overwrite
from tests.required_servers import missing, only_if

needs_root = only_if(os.geteuid() == 0, "only root may mount and change owners")
BODY = b"changed\n" * 1000


@contextmanager
def mounted(*options):
    """Mount something, then unmount it: the last option is where."""
    subprocess.run(["mount", *options], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", options[-1]], check=True)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "topology.toml"
    path.write_bytes(b"before\n")
    path.chmod(0o640)
    return path


def alone(path):
    """Check that nothing was left beside a file."""
    assert [each.name for each in path.parent.iterdir() if each.name[0] == "."] == []


def test_a_plain_file_is_replaced_at_once_and_keeps_its_mode(file):
    number = file.stat().st_ino
    overwrite(file, BODY)
    assert file.read_bytes() == BODY
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert file.stat().st_ino != number
    alone(file)


def test_shorter_content_leaves_nothing_of_the_longer_behind(file):
    other = file.with_name("other")
    os.link(file, other)
    overwrite(file, BODY)
    overwrite(file, b"short\n")
    assert file.read_bytes() == other.read_bytes() == b"short\n"


def test_hard_links_go_on_naming_one_file(file):
    other = file.with_name("other")
    os.link(file, other)
    overwrite(other, BODY)
    assert file.read_bytes() == BODY
    assert file.samefile(other)
    alone(file)


@needs_root
def test_a_link_to_another_file_system_is_written_through(file, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs", folder):
        real = folder / "real.toml"
        real.write_bytes(b"before\n")
        file.unlink()
        file.symlink_to(real)
        overwrite(file, BODY)
        assert file.is_symlink()
        assert real.read_bytes() == BODY
        alone(real)
        alone(file)


@needs_root
def test_a_bind_mounted_file_is_written_through(file, tmp_path):
    real = tmp_path / "real.toml"
    real.write_bytes(b"before\n")
    with mounted("--bind", real, file):
        overwrite(file, BODY)
        assert file.read_bytes() == BODY
    assert real.read_bytes() == BODY
    assert file.read_bytes() == b"before\n"
    alone(file)


@needs_root
def test_a_file_in_a_folder_that_takes_no_other_is_written_in_place(file, tmp_path):
    mount = tmp_path / "mounted"
    mount.mkdir()
    inner = mount / "topology.toml"
    inner.touch()
    with mounted("--bind", tmp_path, mount):
        subprocess.run(["mount", "-o", "remount,bind,ro", mount], check=True)
        with mounted("--bind", file, inner):
            overwrite(inner, BODY)
    assert file.read_bytes() == BODY


@needs_root
def test_what_root_writes_stays_another_users(file):
    os.chown(file, 1234, 4321)
    overwrite(file, BODY)
    found = file.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 4321, 0o640)
    assert file.read_bytes() == BODY


@needs_root
def test_a_file_of_another_user_that_one_may_write_stays_theirs():
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "topology.toml"
        file.write_bytes(b"before\n")
        os.chown(file, 1234, 4321)
        file.chmod(0o666)
        Path(folder).chmod(0o777)
        pid = os.fork()
        if not pid:  # the child must never return into pytest
            code = 1
            try:
                os.setuid(4444)
                overwrite(file, BODY)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert file.stat().st_uid == 1234
        assert file.read_bytes() == BODY
        alone(file)


def test_extended_attributes_stay(file):
    try:
        os.setxattr(file, "user.note", b"mine")
    except OSError:
        missing("this file system keeps no extended attributes")
    overwrite(file, BODY)
    assert os.getxattr(file, "user.note") == b"mine"


def test_a_read_only_file_is_left_alone(file):
    file.chmod(0o440)
    with pytest.raises(PermissionError, match="read-only"):
        overwrite(file, BODY)
    assert file.read_bytes() == b"before\n"
    alone(file)


@needs_root
def test_a_full_disk_leaves_a_file_as_it_was(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=64k", "tmpfs", folder):
        path = folder / "topology.toml"
        path.write_bytes(b"before\n")
        os.link(path, folder / "other")
        (folder / "fill").write_bytes(b"x" * 56_000)
        with pytest.raises(OSError, match="No space left"):
            overwrite(path, b"y" * 100_000)
        assert path.read_bytes() == b"before\n"
        alone(path)
