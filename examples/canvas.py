"""Runs that hang together: chain, group, chord and map; run it with ``python examples/canvas.py``."""

from __future__ import annotations

import anyio

from taskservice import AnyIOBackend, ChordError, ConfigurationError, TaskService, chain, chord, group, task


@task
async def fetch(page: int) -> list[str]:
    if page > 3:
        raise LookupError(f"no page {page}")
    return [f"word{page}"] * page


@task
def count(words: list[str]) -> int:
    return len(words)


@task
def total(counts: list[int], more: int = 0) -> int:
    return sum(counts) + more


async def main() -> None:
    async with TaskService(AnyIOBackend()) as service:
        pages = group(chain(fetch.s(page), count.s()) for page in (1, 2, 3))

        _, counts = await service.launch_canvas(pages)
        print("group:", await counts.result())

        # A group that something follows is a chord; the value before goes in front of the arguments.
        _, summed = await service.launch_canvas(chain(pages, total.s(more=100)))
        print("chain:", await summed.result(), "in", len(summed.runs), "runs")

        _, mapped = await service.launch_canvas(count.map([["a"], ["b", "c"]]))
        print("map:", await mapped.result())

        _, failing = await service.launch_canvas(chord([fetch.s(1), fetch.s(9)], total.s()))
        try:
            await failing.result()
        except ChordError as error:
            print("chord:", error.reason, [str(await run.status()) for run in failing.runs])

        steps = [fetch.s(1)]
        steps.append(steps)  # type: ignore[arg-type] # wrong on purpose
        try:
            chain(steps)
        except ConfigurationError as error:
            print("refused:", error)


if __name__ == "__main__":
    anyio.run(main)
