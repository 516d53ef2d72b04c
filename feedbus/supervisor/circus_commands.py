"""The commands that circusctl sends: feedbus's versions of circus's commands, and new ones.

In circus, each command holds one lock, and circus refuses all other commands meanwhile. So a stop
of one consumer, which waits for a long handler, would block the commands for all other watchers.
The commands here do not hold that lock. They replace circus's commands of the same names.
"""

from __future__ import annotations

import asyncio
import fnmatch
import math
import os
import re
from collections.abc import Awaitable
from dataclasses import asdict
from typing import Any

from circus.commands.base import Command
from circus.commands.quit import Quit
from circus.commands.reload import Reload
from circus.commands.reloadconfig import ReloadConfig
from circus.commands.restart import Restart
from circus.commands.rmwatcher import RmWatcher
from circus.commands.set import Set
from circus.commands.start import Start
from circus.commands.stop import Stop
from circus.exc import MessageError

from feedbus import config
from feedbus.errors import FeedbusError
from feedbus.supervisor import watcher_state
from feedbus.supervisor.applied_settings import PROTOCOL, write_applied, write_broker
from feedbus.supervisor.run_command import run_command
from feedbus.supervisor.supervision import Supervision
from feedbus.supervisor.watcher import ProcessWatcher

CHANGEABLE = {"numprocesses", "graceful_timeout"}  # the options that `set` may change


def _supervision(arbiter: Any) -> Supervision:
    found = getattr(arbiter, "supervision", None)
    if not isinstance(found, Supervision):
        msg = "the supervisor is starting; try again in a moment"
        raise MessageError(msg)
    return found


def _named_watchers(arbiter: Any, props: dict[str, Any]) -> list[Any]:
    """Return the watchers that a command names, or all watchers if it has no property "name".

    Args:
        arbiter: circus's main object, which has the watchers.
        props: the properties of the command. "name" is a name or a pattern. "match" is the kind of
            the pattern: "simple", "glob" (the default) or "regex".

    Raises:
        MessageError: no watcher has such a name, or a property is not valid.

    """
    if "name" not in props:
        return list(arbiter.iter_watchers())
    name, match = str(props["name"]).lower(), props.get("match", "glob")
    if match == "simple":
        pattern = re.escape(name) + r"\Z"
    elif match == "glob":
        pattern = fnmatch.translate(name)
    elif match == "regex":
        pattern = name
    else:
        msg = f"unknown match method {match}; expected simple, glob or regex"
        raise MessageError(msg)
    try:
        found = [one for one in arbiter.iter_watchers() if re.match(pattern, one.name.lower())]
    except re.error as error:
        msg = f"{props['name']} is not a regular expression: {error}"
        raise MessageError(msg) from None
    if not found:
        known = ", ".join(one.name for one in arbiter.watchers)
        msg = f"program {props['name']} not found; expected one of {known}"
        raise MessageError(msg)
    return found


def _together(steps: list[Awaitable[Any]]) -> Any:
    """Carry out steps at the same time; return a task with the empty answer of the command."""

    async def wait() -> dict[str, Any]:
        await asyncio.gather(*steps)
        return {}

    return asyncio.ensure_future(wait())


class StartWatchers(Start):
    """circus's command `start`, which starts watchers, for `circusctl start [NAME]`."""

    def execute(self, arbiter: Any, props: dict[str, Any]) -> Any:
        """Start the watchers that the properties "name" and "match" select, or all watchers.

        circus calls the method when the command arrives.

        Args:
            arbiter: circus's main object, which has the watchers.
            props: the properties of the command. "name" is a name or a pattern; "match" is the kind
                of the pattern: "simple", "glob" (the default) or "regex".

        Returns:
            A task that ends when the processes have been started.

        Raises:
            MessageError: no watcher has such a name, or a property is not valid.

        """
        _supervision(arbiter)
        return _together([one._start() for one in _named_watchers(arbiter, props)])  # noqa: SLF001 -- start() of circus's watchers is refused while another command works


class StopWatchers(Stop):
    """circus's command `stop`, which stops watchers, for `circusctl stop [NAME]`."""

    def execute(self, arbiter: Any, props: dict[str, Any]) -> Any:
        """Stop the watchers that the properties "name" and "match" select, or all watchers.

        Each consumer first finishes its messages. circus calls the method when the command arrives.

        Args:
            arbiter: circus's main object, which has the watchers.
            props: the properties of the command. "name" is a name or a pattern; "match" is the kind
                of the pattern: "simple", "glob" (the default) or "regex".

        Returns:
            A task that ends when all processes of the watchers have ended.

        Raises:
            MessageError: no watcher has such a name, or a property is not valid.

        """
        _supervision(arbiter)
        return _together([one._stop(True) for one in _named_watchers(arbiter, props)])  # noqa: SLF001 -- as above


class RestartWatchers(Restart):
    """circus's command `restart`, for `circusctl restart [NAME]` and `feedbus restart`."""

    def execute(self, arbiter: Any, props: dict[str, Any]) -> Any:
        """Restart the watchers that the properties "name" and "match" select, or all watchers.

        circus calls the method when the command arrives.

        Args:
            arbiter: circus's main object, which has the watchers.
            props: the properties of the command. "name" is a name or a pattern; "match" is the kind
                of the pattern: "simple", "glob" (the default) or "regex".

        Returns:
            A task that ends when the new processes have been started.

        Raises:
            MessageError: no watcher has such a name, or a property is not valid.

        """
        supervision = _supervision(arbiter)
        chosen = _named_watchers(arbiter, props)
        # An operator can add plain watchers of circus.
        plain = [one for one in chosen if not isinstance(one, ProcessWatcher)]
        steps = [one._restart() for one in plain]  # noqa: SLF001 -- as above
        own = [one for one in chosen if isinstance(one, ProcessWatcher)]
        return _together([*steps, supervision.restart(own)])


class ReloadWatchers(Reload):
    """circus's command `reload`; it restarts watchers, as the command `restart` does."""

    def execute(self, arbiter: Any, props: dict[str, Any]) -> Any:
        """Restart the watchers; each new process starts only after the old process has ended.

        In circus's own `reload`, both processes would run at the same time. circus calls the method
        when the command arrives.

        Args:
            arbiter: circus's main object, which has the watchers.
            props: the properties "name" and "match" select the watchers, as in the command
                `restart`.

        Returns:
            A task that ends when the new processes have been started.

        """
        return RestartWatchers().execute(arbiter, props)


class RemoveWatcher(RmWatcher):
    """circus's command `rm`, which removes a watcher until the next `feedbus apply`."""

    def execute(self, arbiter: Any, props: dict[str, Any]) -> Any:
        """Stop and remove the watcher with the property "name"; `feedbus apply` adds it again.

        circus calls the method when the command arrives.

        Args:
            arbiter: circus's main object, which has the watchers.
            props: the properties of the command.

        Returns:
            A task that ends when the watcher is removed.

        Raises:
            MessageError: the property "nostop" is set; the processes would have no supervisor.

        """
        supervision = _supervision(arbiter)
        watcher = self._get_watcher(arbiter, props["name"])
        if not isinstance(watcher, ProcessWatcher):
            return super().execute(arbiter, props)
        if props.get("nostop"):
            msg = "--nostop would leave processes without a supervisor; run rm without --nostop"
            raise MessageError(msg)
        return _together([supervision.remove(watcher)])


class SetOptions(Set):
    """circus's command `set`, which sets options of a watcher, for `circusctl set`."""

    def execute(self, arbiter: Any, props: dict[str, Any]) -> Any:
        """Change the options in the property "options" of the watcher with the property "name".

        The possible options are CHANGEABLE: the number of processes and the time to stop. The next
        `feedbus apply` sets the number of processes of topology.toml again. The time to stop is
        kept until the watcher is replaced. circus calls the method when the command arrives.

        Args:
            arbiter: circus's main object, which has the watchers.
            props: the properties of the command.

        Raises:
            MessageError: one of the options is not in CHANGEABLE, so only topology.toml may change
                it.

        """
        watcher = self._get_watcher(arbiter, props["name"])
        if isinstance(watcher, ProcessWatcher) and (fixed := set(props["options"]) - CHANGEABLE):
            options = ", ".join(sorted(fixed))
            msg = f"{options} cannot be set here: change topology.toml, then run `feedbus apply`"
            raise MessageError(msg)
        return asyncio.ensure_future(_wait_for(super().execute(arbiter, props)))


async def _wait_for(step: Awaitable[Any]) -> dict[str, Any]:
    await step
    return {}


class QuitSupervisor(Quit):
    """circus's command `quit`, which ends the supervisor, for `circusctl quit`."""

    def execute(self, arbiter: Any, props: dict[str, Any]) -> Any:  # noqa: ARG002 -- circus's signature
        """End all processes and then the supervisor; return at once.

        circus calls the method when the command arrives.

        Args:
            arbiter: circus's main object, which has the watchers.
            props: not used.

        """
        return _supervision(arbiter).stop()


class FollowFile(ReloadConfig):
    """circus's command `reloadconfig`; it runs `feedbus apply` instead of reading circus.ini."""

    def execute(self, arbiter: Any, props: dict[str, Any]) -> Any:  # noqa: ARG002 -- circus's signature
        """Run `feedbus apply --yes`, because topology.toml and not circus.ini describes the system.

        circus calls the method when the command arrives.

        Args:
            arbiter: circus's main object, which has the watchers.
            props: not used.

        Returns:
            A task that ends when the changes are made. Its result has the key "reason" if they
            failed.

        """
        return asyncio.ensure_future(self._apply(_supervision(arbiter)))

    @staticmethod
    async def _apply(supervision: Supervision) -> dict[str, Any]:
        printed, code = await run_command(supervision.topology.path, "apply", "--yes")
        return {} if code == 0 else {"status": "error", "reason": printed or str(code)}


class ReportState(Command):
    """The supervisor's command `feedbus`, with which `feedbus status` gets the watchers' state."""

    name = "feedbus"

    def execute(self, arbiter: Any, props: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 -- circus's signature
        """Return the state of the supervisor and of each watcher, in the topology's order.

        `feedbus status`, `plan`, `apply` and others send this command. The command also works
        before the watchers exist. circus calls the method when the command arrives.

        Args:
            arbiter: circus's main object, which has the watchers.
            props: not used.

        Returns:
            JSON values. The key "watchers" maps names to states, "pid" is the supervisor's process
            id, and "settings" has the digests of the options with which the watchers run. Before
            the watchers exist, "settings" is None.

        """
        own = [one for one in arbiter.watchers if isinstance(one, ProcessWatcher)]
        supervision = getattr(arbiter, "supervision", None)
        return {
            "pid": os.getpid(),
            "stopping": bool(supervision and supervision.stopping),
            "watchers": {one.name: watcher_state.state(one) for one in own},
            "protocol": PROTOCOL,
            "reloads": bool(supervision and supervision.reloads),
            "settings": asdict(supervision.settings) if supervision else None,
        }


class End(Command):
    """The supervisor's command `feedbus-down`, which ends all processes, for `feedbus down`."""

    name = "feedbus-down"

    def execute(self, arbiter: Any, props: dict[str, Any]) -> dict[str, Any]:
        """End all processes and then the supervisor; return at once.

        circus calls the method when the command arrives.

        Args:
            arbiter: circus's main object, which has the watchers.
            props: the properties of the command. If a process has not ended after "seconds", it is
                killed. With None, a process is killed after its own stop time.

        """
        seconds = props.get("seconds")
        _supervision(arbiter).stop(math.inf if seconds is None else float(seconds))
        return {}


class Apply(Command):
    """The supervisor's command `feedbus-apply`, which changes the system to another topology."""

    name = "feedbus-apply"

    def execute(self, arbiter: Any, props: dict[str, Any]) -> Any:
        """Carry out one step of `feedbus apply`; the properties select the step.

        With the property "pause", stop the watchers whose names it lists. With the property "text",
        change to the topology with this text. With neither property, end the watchers that are not
        in the topology. circus calls the method when the command arrives.

        Args:
            arbiter: circus's main object, which has the watchers.
            props: the properties of the command.

        Returns:
            A task whose result has the key "refused": why the step was refused, or "".

        """
        return asyncio.ensure_future(self._carry_out(_supervision(arbiter), props))

    async def _carry_out(self, supervision: Supervision, props: dict[str, Any]) -> dict[str, Any]:
        try:
            if "pause" in props:
                await supervision.pause(props["pause"])
            elif "text" in props:
                text = props["text"]
                topology = config.load(supervision.topology.path, text=text)
                write_applied(topology, text)
                write_broker(topology)
                await supervision.change_topology(topology)
            else:
                await supervision.finish()
        except FeedbusError as error:
            return {"refused": str(error)}
        return {"refused": ""}
