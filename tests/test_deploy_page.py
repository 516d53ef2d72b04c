"""The script of docs/how-to/deploy.md that runs commands with the environment of the unit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.pages import DOCS, blocks
from tests.projects import environment_without_options
from tests.required_servers import only_if

TOPOLOGY = """\
name = "shop"
var = "${FEEDBUS_VAR:-var}"
[broker]
url = "${FEEDBUS_BROKER_URL:-sqlite:///var/broker.db}"
[exchanges]
orders = { type = "direct" }
[queues.reserve]
exchange = "orders"
routing_keys = ["chair"]
handler = "app:reserve"
"""


@only_if(os.geteuid() == 0 and shutil.which("runuser") is not None, "runuser needs root")
def test_the_script_for_commands_uses_the_variables_of_the_unit(tmp_path: Path) -> None:
    (script,) = [
        block.text
        for block in blocks(DOCS / "how-to" / "deploy.md")
        if block.text.startswith("#!/bin/sh")
    ]
    programs = tmp_path / "shop" / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "feedbus").write_text(f'#!/bin/sh\nexec {sys.executable} -m feedbus "$@"\n')
    (programs / "feedbus").chmod(0o755)
    (tmp_path / "shop" / "topology.toml").write_text(TOPOLOGY)
    (tmp_path / "shop.env").write_text("FEEDBUS_BROKER_URL='sqlite:////tmp/$no;such&folder/b.db'\n")
    for real, other in (
        ("/var/lib/shop", tmp_path / "state"),
        ("/etc/shop.env", tmp_path / "shop.env"),
        ("/opt/shop", tmp_path / "shop"),
        ("-u shop", "-u root"),
    ):
        assert real in script
        script = script.replace(real, str(other))
    (tmp_path / "command").write_text(script)
    (tmp_path / "command").chmod(0o755)
    done = subprocess.run(
        [tmp_path / "command", "status", "--json"],
        env=environment_without_options(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["broker"]["url"] == "sqlite:////tmp/$no;such&folder/b.db"
    assert (tmp_path / "state").is_dir()
    assert not (tmp_path / "shop" / "var").exists()
