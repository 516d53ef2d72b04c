"""Open and close an async resource in the event loop of the handlers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any


class GeneratorTask:
    """Runs the async generator of one open resource from its start to its end in one task.

    One task is necessary, because only the task that has entered a task group of anyio can exit it.

    Args:
        generator: the generator that the function of the resource has returned.
        on_early_end: called if the generator ends before end() is called, for example because a
            task of its task group has failed.
    """

    def __init__(
        self, generator: AsyncGenerator[Any, None], on_early_end: Callable[[], None]
    ) -> None:
        """Create the object; nothing runs yet.

        Args:
            generator: yields the value of a resource once, and closes the resource afterwards.
            on_early_end: called, in the thread of the event loop, if the task ends before end() is
                called.

        """
        self._generator = generator
        self._on_early_end = on_early_end

    async def begin(self) -> Any:
        """Start the task, which opens the resource; return the value that the generator yields.

        Raises:
            RuntimeError: the generator has yielded no value. Exceptions of the generator are raised
                here, too.
        """
        loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        opened: asyncio.Future[Any] = loop.create_future()
        self._task = loop.create_task(self._live(opened))
        value = await opened
        self._task.add_done_callback(self._ended)
        return value

    def _ended(self, _task: asyncio.Task[None]) -> None:
        if not self._closing.is_set():
            self._on_early_end()

    async def end(self) -> None:
        """Let the generator continue after its yield, and wait until it has ended.

        Raises:
            RuntimeError: the generator has yielded a second value. Exceptions of the generator are
                raised here, too.

        """
        self._closing.set()
        await self._task

    async def _live(self, opened: asyncio.Future[Any]) -> None:
        try:
            value = await anext(self._generator)
        except StopAsyncIteration:
            opened.set_exception(RuntimeError("it has yielded no value"))
            return
        except BaseException as error:  # noqa: BLE001 -- begin() raises it
            opened.set_exception(error)
            return
        opened.set_result(value)
        try:
            await self._closing.wait()
        except asyncio.CancelledError as error:
            # The generator contains a task group, and a task of the group has failed. So the task
            # group has cancelled this task. The CancelledError must reach the task group, at the
            # yield of the generator. Then the task group raises the error of the failed task.
            with contextlib.suppress(StopAsyncIteration):
                await self._generator.athrow(error)
            raise
        async for _ in self._generator:
            msg = "expected one yield in a resource, got two"
            raise RuntimeError(msg)
