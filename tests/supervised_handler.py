"""A project of one handler under a supervisor, as a real process."""

import json
import os
import subprocess
from contextlib import contextmanager

from tests.projects import PATIENCE_SECONDS, Project, circusctl, status, wait_until

SLOW = """
note(f"begin{n}")
while not os.path.exists(os.path.join(os.path.dirname(__file__), "release")):
    time.sleep(0.02)
note(f"end{n}")
"""
PROCESS = '[processes.{name}]\ncommand = {command}\nstop_timeout = "1s"\n'
READY = "from feedbus.process import status_files; status_files.mark_ready()"


class System:
    """A small project under a supervisor."""

    def __init__(self, folder, body="note(n)", options="", processes=None):
        self.project = Project.at(folder, body, options)
        with self.project.topology.open("a") as file:
            for name, command in (processes or {}).items():
                file.write(PROCESS.format(name=name, command=json.dumps(command)))

    @property
    def folder(self):
        return self.project.folder

    @contextmanager
    def up(self, prefix=(), ready=True):
        """Run the project in the foreground until the block ends."""
        (self.folder / "release").unlink(missing_ok=True)
        with (self.folder / "output").open("w") as output:
            process = subprocess.Popen(
                [*prefix, *self.project.command("up")],
                cwd=self.folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            if ready:
                wait_until(lambda: "processes are ready" in self.output)
            yield process
        finally:
            (self.folder / "release").touch()
            process.terminate()
            process.wait(PATIENCE_SECONDS)

    @property
    def output(self):
        return (self.folder / "output").read_text()

    def circusctl(self, *words):
        done = circusctl(self.folder, os.environ, *words)
        return (done.stdout + done.stderr).strip()

    def status(self):
        return status(self.project.topology)

    def pids(self, name):
        status = self.status()
        one = (status["consumers"] | status["processes"])[name]
        return [process["pid"] for process in one["processes"]]
