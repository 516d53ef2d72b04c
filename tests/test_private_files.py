"""Nothing is written to a file or folder that another user may have put there."""

import os
import stat
from pathlib import Path

import pytest

from feedbus.process.private_files import (
    NotPrivate,
    make_database_file,
    open_private,
    private_folder,
    unwritable,
)
from tests.projects import Project
from tests.required_servers import only_if

NOBODY = 65534
as_root = only_if(os.getuid() == 0, "only root can give a file to another user")


def test_a_folder_is_made_for_its_owner_alone(tmp_path):
    made = private_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o702])
def test_a_folder_that_others_may_write_to_is_refused_with_what_to_do(tmp_path, mode):
    folder = tmp_path / "var"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(NotPrivate, match=rf"var: other users may write .*`chmod go-w {folder}`"):
        private_folder(folder)


@as_root
def test_a_folder_of_another_user_is_refused_with_both_names(tmp_path):
    folder = tmp_path / "var"
    folder.mkdir()
    os.chown(folder, NOBODY, -1)
    with pytest.raises(NotPrivate, match="var belongs to nobody, but feedbus runs as root: run it"):
        private_folder(folder)


@as_root
def test_a_folder_behind_another_users_link_is_refused_and_behind_ones_own_is_not(tmp_path):
    target = tmp_path / "disk"
    target.mkdir(mode=0o700)
    link = tmp_path / "var"
    link.symlink_to(target)
    assert private_folder(link) == link
    os.lchown(link, NOBODY, -1)
    with pytest.raises(NotPrivate, match=r"the symbolic link .* belongs to nobody"):
        private_folder(link)


def test_a_file_is_opened_for_its_owner_alone_and_not_for_what_is_started(tmp_path):
    descriptor = open_private(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o600
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("plant", [Path.symlink_to, Path.hardlink_to])
@pytest.mark.parametrize("flags", [os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_RDWR])
def test_no_file_is_written_through_a_link(tmp_path, plant, flags):
    target, planted = tmp_path / "precious", tmp_path / "planted"
    target.write_text("kept")
    plant(planted, target)
    with pytest.raises(NotPrivate, match=r"planted (is a symbolic|has a second name).* remove it"):
        open_private(planted, flags)
    assert target.read_text() == "kept"


def test_a_link_to_nowhere_makes_no_file_there(tmp_path):
    planted = tmp_path / "planted"
    planted.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotPrivate):
        open_private(planted, os.O_WRONLY | os.O_CREAT)
    assert not (tmp_path / "elsewhere").exists()


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotPrivate, match="is not a regular file"):
        open_private(tmp_path / "pipe", os.O_WRONLY | os.O_CREAT)


@as_root
def test_a_file_of_another_user_is_refused_unless_root_gave_it_to_that_user(tmp_path):
    (tmp_path / "file").touch()
    os.chown(tmp_path / "file", NOBODY, -1)
    with pytest.raises(NotPrivate, match="file belongs to nobody"):
        open_private(tmp_path / "file", os.O_RDWR)
    os.close(open_private(tmp_path / "file", os.O_RDWR, any_owner=True))


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_a_database_is_not_opened_when_one_of_its_files_is_a_link(tmp_path, suffix):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / f"store.db{suffix}").symlink_to(tmp_path / "precious")
    with pytest.raises(NotPrivate, match=f"store.db{suffix} is a symbolic link"):
        make_database_file(tmp_path / "store.db")


def test_a_folder_is_probed_by_writing_and_nothing_stays_in_it(tmp_path):
    assert unwritable(tmp_path) == ""
    assert unwritable(tmp_path / "absent") == ""
    assert list(tmp_path.iterdir()) == []


FILES = [
    "run/supervisor.lock",
    "run/applied.new",
    "run/work.1.lock",
    "run/work.1.ready",
    "run/work.1.handler",
    "run/apply.lock",
    "log/work.log",
    "log/supervisor.log",
    "metrics/work.1.counts",
    "broker.db",
    "store.db",
    "store.db.turn",
]


def test_links_planted_at_every_file_under_var_are_never_followed(tmp_path):
    project = Project.at(tmp_path, "note(n)")
    precious = tmp_path / "precious"
    var = tmp_path / "var"
    var.mkdir(mode=0o700)
    for folder in ("run", "log", "metrics"):
        (var / folder).mkdir(mode=0o700)
    for name in FILES:
        precious.write_text("kept")
        planted = var / name
        planted.unlink(missing_ok=True)
        planted.symlink_to(precious)
    for words in (
        ("run", "work", "--max-runtime", "100ms"),
        ("up", "--detach"),
        ("apply", "--yes"),
        ("publish", "work", "--json", '{"n": 1}'),
    ):
        refused = project.feedbus(*words, code=1).stderr
        assert "is a symbolic link, made by" in refused, words
        assert "Traceback" not in refused
    assert precious.read_text() == "kept"
