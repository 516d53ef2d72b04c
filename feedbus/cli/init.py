"""feedbus init: a new project that runs immediately."""

from __future__ import annotations

from pathlib import Path

import click

from feedbus.printable import printable
from feedbus.units import counted

# The files of a project with their meanings, in the order in which they are listed. Other files are
# listed last.
MEANINGS = {
    "topology.toml": "exchanges, queues, shards and retries",
    "app.py": "two handlers",
    "test_app.py": "their tests, in memory",
    "tests/test_app.py": "their tests, in memory",
    "README.md": "the commands",
    "pyproject.toml": "dependencies, and options of pytest, mypy and ruff",
    "Dockerfile": "the image",
    "compose.yaml": "the image, and RabbitMQ",
    "rabbitmq/rabbitmq.conf": "RabbitMQ's settings",
    "rabbitmq/advanced.config": "more of RabbitMQ's settings",
    "rabbitmq/enabled_plugins": "RabbitMQ's plugins",
    ".dockerignore": "files that are not copied into the image",
    ".gitignore": "files that git ignores",
    "wheels/README": "for wheels that the image needs, such as feedbus",
}
MESSAGE = '{"id": 1, "product": "chair", "customer": "ann", "quantity": 2}'


@click.command(
    "init",
    epilog="""\b
Examples:
  feedbus init shop
  feedbus init shop --minimal    # topology.toml, app.py and test_app.py
""",
)
@click.argument("name")
@click.option("--minimal", is_flag=True, help="Write only the topology, handlers and a test.")
def command(name: str, *, minimal: bool) -> None:
    """Create the folder NAME with a project that runs immediately.

    The project has two handlers, one of them on a queue with shards, and their tests. It also has
    the files for a deployment with Docker Compose or systemd. If the folder exists, it must be
    empty.
    """
    from feedbus.new_project import create

    created = create(name, Path(), minimal=minimal)
    click.echo(f"created {printable(name)}: {counted(len(created.paths), 'file')}")
    width = max(map(len, created.paths))
    order = list(MEANINGS)
    for path in sorted(
        created.paths, key=lambda one: order.index(one) if one in order else len(order)
    ):
        meaning = MEANINGS.get(path, "the systemd unit" if path.endswith(".service") else "")
        click.echo(f"  {path:<{width}}  {meaning}".rstrip())
    click.echo(
        f"\nNext:\n"
        f"  cd {name}\n"
        f"  pytest                 # runs the tests; `pip install pytest` first\n"
        f"  feedbus up             # runs everything on the embedded broker; Ctrl-C stops it\n"
        f"In a second terminal, in the same folder:\n"
        f"  feedbus publish orders --key chair --json '{MESSAGE}'\n"
        f"  feedbus status         # consumers, waiting messages, address of the operations page\n"
        f"  feedbus logs           # the log lines of all consumers and processes"
    )
