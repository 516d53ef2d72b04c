"""Open and close an async resource in the event loop of the handlers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any


class GeneratorTask:
    """Runs an async generator from its start to its end in one task, as anyio requires."""

    def __init__(
        self, generator: AsyncGenerator[Any, None], on_early_end: Callable[[], None]
    ) -> None:
        """Create the object; nothing runs yet.

        Args:
            generator: yields the value of a resource once, and closes the resource afterwards.
            on_early_end: called if the generator ends before end() is called.

        """
        self._generator = generator
        self._on_early_end = on_early_end

    async def begin(self) -> Any:
        """Start the task, and return the value that the generator yields."""
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
        """Let the generator continue to its end, and wait for it."""
        self._closing.set()
        await self._task

    async def _live(self, opened: asyncio.Future[Any]) -> None:
        try:
            value = await anext(self._generator)
        except StopAsyncIteration:
            opened.set_exception(RuntimeError("it has yielded no value"))
            return
        except BaseException as error:  # noqa: BLE001 -- raised where it is awaited
            opened.set_exception(error)
            return
        opened.set_result(value)
        try:
            await self._closing.wait()
        except asyncio.CancelledError as error:
            # A task group in the generator has cancelled the generator, because a task of the group
            # has failed. The task group then raises the error.
            with contextlib.suppress(StopAsyncIteration):
                await self._generator.athrow(error)
            raise
        async for _ in self._generator:
            msg = "expected one yield in a resource, got two"
            raise RuntimeError(msg)
