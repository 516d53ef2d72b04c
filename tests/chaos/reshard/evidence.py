"""The results of a run: effects in the database, messages in queues, the ring's state, logs."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.generations import state_queues
from feedbus.generations.ring_state import RingState
from tests.chaos.reshard.project import Project


@dataclass(frozen=True, slots=True)
class Seen:
    """One effect: the record and its consumer, in the database's order."""

    sequence: int
    key: str
    number: int
    shard: str
    generation: str


class Evidence:
    """Reads the results of the consumers of a project."""

    def __init__(self, project: Project) -> None:
        """Read the project's database, broker and logs."""
        self._project = project

    def logs(self) -> str:
        """Return the last lines of every log."""
        reported = ["", f"state: {self.state()}", f"queues: {self.queues()}"]
        for path in sorted((self._project.folder / "logs").iterdir()):
            reported += [f"--- {path.name}", *path.read_text(errors="replace").splitlines()[-15:]]
        return "\n".join(reported)

    def count(self) -> int:
        """Return how many records have had their effect."""
        with closing(self._project.store()) as store:
            return int(store.execute("SELECT count(*) FROM seen").fetchone()[0])

    def latest(self) -> int:
        """Return the number of the latest effect: about count(), but without reading all rows."""
        with closing(self._project.store()) as store:
            return int(store.execute("SELECT max(sequence) FROM seen").fetchone()[0] or 0)

    def count_of(self, number: int) -> int:
        """Return how many keys have the effect of this number."""
        with closing(self._project.store()) as store:
            count = store.execute("SELECT count(*) FROM seen WHERE number = ?", (number,))
            return int(count.fetchone()[0])

    def seen(self) -> list[Seen]:
        """Return every effect in the database's order."""
        with closing(self._project.store()) as store:
            rows = store.execute(
                "SELECT sequence, key, number, shard, generation FROM seen ORDER BY sequence"
            ).fetchall()
        return [Seen(*row) for row in rows]

    def times(self) -> dict[tuple[str, int], float]:
        """Return when each record had its effect, in seconds since 1970."""
        with closing(self._project.store()) as store:
            rows = store.execute("SELECT key, number, at FROM seen").fetchall()
        return {(key, number): at for key, number, at in rows}

    def state(self) -> RingState:
        """Return the state of the ring."""
        with broker.connect(self._project.topology) as connection:
            return state_queues.states(connection, self._project.topology)["ring"]

    def queues(self) -> dict[str, int]:
        """Return the queues of rings that pass and how many messages are ready in each."""
        topology = self._project.topology
        names, found = Names(topology), {}
        with broker.connect(topology) as connection:
            for old in self.state().draining:
                for member, _ in old.members:
                    queue = names.member(old, member)
                    if broker.queue_exists(connection, queue):
                        reported = connection.default_channel.queue_declare(queue, passive=True)
                        found[queue] = reported.message_count
        return found

    def left_behind(self) -> dict[str, int]:
        """Return how many messages are held, dead, or in the current shards' queues."""
        topology = self._project.topology
        names, state = Names(topology), self.state()
        queues = {
            "held": names.held("ring"),
            "dead letters": names.dead(topology.queues["shard"]),
        } | {member: names.member(state.current, member) for member, _ in state.current.members}
        with broker.connect(topology) as connection:
            channel = connection.default_channel
            return {
                reported: int(channel.queue_declare(queue, passive=True).message_count)
                for reported, queue in queues.items()
            }
