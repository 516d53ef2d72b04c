"""`python -m bench.profile wide|everyday`: the processes and functions that need processor time.

Prints the processor seconds of each kind of process during one delivery; with py-spy installed
(the extra `bench`) also the functions in which feedbus's processes spend theirs.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import psutil

from bench.runs import feeds
from bench.scale import FULL
from bench.stage import EMBEDDED, SERVERS, Stage
from bench.system import System, name_of

SHARD = re.compile(r"_\d+$")
WATCHED = ("publish_tweet", "update_feed_0", "send_notification.email")
RATE = 200
FRAME = re.compile(r"^(.*) \((.*)\)$")
TOP = 40
OUTER = re.compile(r"click/|cli/|contextlib|^<module>|^_run_|^main |^Runner\\.(run|_consume|_read)")


@click.command()
@click.argument("graph", type=click.Choice(["wide", "everyday", "million"]))
@click.option("--embedded", is_flag=True, help="On SQLite instead of the servers.")
def main(graph: str, *, embedded: bool) -> None:
    """Profile one delivery of a graph's tweets."""
    kind = EMBEDDED if embedded else SERVERS
    count = {"wide": FULL.wide_tweets, "everyday": FULL.everyday_tweets, "million": 1}[graph]
    with Stage.started(FULL) as stage:
        seconds: defaultdict[str, float] = defaultdict(float)
        stacks: dict[str, Counter[str]] = {}

        @contextmanager
        def watched(system: System) -> Iterator[None]:
            before = _used(stage, system)
            with _spied(system, stage.folder, stacks):
                yield
            after = _used(stage, system)
            for key, used in after.items():
                seconds[key[0]] += used - before.get(key, 0.0)

        result = feeds.deliver(stage, kind, graph, count, watched)
    click.echo(f"{graph}, {kind}: {result['rate']:,.0f} updates/s in {result['seconds']:.2f} s")
    click.echo("\nprocessor seconds by kind of process")
    for name, used in sorted(seconds.items(), key=lambda item: -item[1]):
        if used >= 0.01:
            click.echo(f"{used:8.2f}  {name}")
    for name, counted in stacks.items():
        _report(name, counted)


def _used(stage: Stage, system: System) -> Mapping[tuple[str, int], float]:
    """Return the processor seconds until now by (kind, pid)."""
    used: dict[tuple[str, int], float] = {}

    def add(name: Callable[[psutil.Process], str], processes: list[psutil.Process]) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used[name(process), process.pid] = times.user + times.system

    add(lambda process: SHARD.sub("", name_of(process)), list(system.processes()))
    for server in (stage.postgres.process, stage.rabbitmq._process):  # noqa: SLF001 -- its pid
        if server is not None:
            root = psutil.Process(server.pid)
            add(_server_kind, [root, *root.children(recursive=True)])
    add(lambda _: "bench itself", [psutil.Process()])
    return used


def _server_kind(process: psutil.Process) -> str:
    words = " ".join(process.cmdline())
    if words.startswith("postgres:"):
        return "postgres: sessions" if "feedbus" in words else words[:30]
    return "rabbitmq" if "beam" in words else process.name()


@contextmanager
def _spied(system: System, folder: Path, stacks: dict[str, Counter[str]]) -> Iterator[None]:
    spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    spies: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
    for process in system.processes() if spy else ():
        name = name_of(process)
        if name in WATCHED:
            path = folder / f"{name}.stacks"
            words = (
                f"{spy} record --nonblocking -f raw -r {RATE} -p {process.pid} -o {path}".split()
            )
            child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            spies[name] = child, path
    yield
    for name, (child, path) in spies.items():
        child.send_signal(signal.SIGINT)
        child.wait(30)
        counted = stacks.setdefault(name, Counter())
        for line in path.read_text().splitlines() if path.exists() else ():
            stack, _, samples = line.rpartition(" ")
            counted[stack] += int(samples)


def _report(name: str, counted: Counter[str]) -> None:
    """Print in which functions a process was, including the functions that they called."""
    total = counted.total()
    within: Counter[str] = Counter()
    itself: Counter[str] = Counter()
    for stack, samples in counted.items():
        frames = [_short(frame) for frame in stack.split(";")]
        for frame in set(frames):
            within[frame] += samples
        itself[frames[-1]] += samples
    click.echo(f"\n{name}: {total} samples at {RATE} a second while it worked")
    click.echo(f"{'within':>7} {'itself':>7}  function")
    for frame, samples in within.most_common(TOP):
        if OUTER.search(frame):
            continue
        click.echo(f"{100 * samples / total:6.1f}% {100 * itself[frame] / total:6.1f}%  {frame}")


def _short(frame: str) -> str:
    found = FRAME.match(frame)
    if found is None:
        return frame
    parts = found[2].rsplit(":", 1)[0].split("/")
    return f"{found[1]} ({'/'.join(parts[-2:])})"


if __name__ == "__main__":
    main()
