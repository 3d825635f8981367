"""Options of a launch, time limits, and results as they come; run it with ``python examples/options.py``."""

from __future__ import annotations

import anyio

from taskservice import AnyIOBackend, LaunchOptionError, SoftTimeLimitError, TaskService, task


@task(soft_time_limit=0.2, time_limit=5)
async def export(name: str, seconds: float) -> str:
    try:
        await anyio.sleep(seconds)
    except SoftTimeLimitError:
        return f"{name}: half of it"
    return f"{name}: all of it"


async def main() -> None:
    async with TaskService(AnyIOBackend()) as service:
        soon = service.options(countdown=0.1, expires=60)
        _, later = await soon.launch_task(export, "later", seconds=0)
        _, now = await service.launch_task(export, "now", seconds=0)
        _, long = await service.launch_task(export, "long", seconds=60)

        async for handle in service.as_completed([long, later, now]):
            print(await handle.result())

        try:
            service.options(priority=10)
        except LaunchOptionError as error:
            print(f"refused: {error}")


if __name__ == "__main__":
    anyio.run(main)
