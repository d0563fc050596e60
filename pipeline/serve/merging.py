"""Several streams heard as one, each item as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

T = TypeVar("T")


async def merged(streams: Sequence[AsyncIterator[T]]) -> AsyncIterator[T]:
    """Items of all streams in the order in which they come. Ends when all have; what one of them raised is raised then.

    Whoever leaves early ends all streams: their `finally` runs before this one is closed.
    """
    items: asyncio.Queue[tuple[T] | None] = asyncio.Queue()

    async def forward(stream: AsyncIterator[T]) -> None:
        try:
            async for item in stream:
                items.put_nowait((item,))
        finally:
            items.put_nowait(None)

    tasks = [asyncio.create_task(forward(stream)) for stream in streams]
    try:
        for _ in tasks:
            while (item := await items.get()) is not None:
                yield item[0]
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
