"""A turn in a thread of its own, its events in the caller's loop: arrays stay in the thread that computes them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import closing
from typing import Any

from .dispatch import Wait
from .turn import ChatEvent

Run = Callable[[Wait, Callable[[], bool]], Generator[ChatEvent, None, None]]


async def events(run: Run) -> AsyncIterator[ChatEvent]:
    """The events of ``run(wait, stopped)``, which is iterated in a thread, each one when it is asked for.

    Leaving early makes ``stopped`` true and closes the iterator.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[ChatEvent | None, BaseException | None]] = asyncio.Queue()
    stop, asked = threading.Event(), threading.Semaphore(0)
    waiting: set[Any] = set()

    def wait(awaitable: Awaitable[Any]) -> Any:
        async def whole() -> Any:
            return await awaitable

        future = asyncio.run_coroutine_threadsafe(whole(), loop)
        waiting.add(future)
        return future.result()

    def work() -> None:
        error: BaseException | None = None
        try:
            with closing(run(wait, stop.is_set)) as turn:
                while asked.acquire() and not stop.is_set():
                    loop.call_soon_threadsafe(queue.put_nowait, (next(turn), None))
        except StopIteration:
            pass
        except BaseException as caught:  # broad: carried over to the loop, and raised where it is awaited
            error = caught
        loop.call_soon_threadsafe(queue.put_nowait, (None, error))

    thread = threading.Thread(target=work, name="mlxlm-chat", daemon=True)
    thread.start()
    try:
        while True:
            asked.release()
            event, error = await queue.get()
            if error is not None:
                raise error
            if event is None:
                return
            yield event
    finally:
        stop.set()
        asked.release()
        for future in waiting:
            future.cancel()
        await asyncio.shield(asyncio.to_thread(thread.join))
