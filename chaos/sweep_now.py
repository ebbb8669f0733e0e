"""The service's sweep, as if all that is there were old: `python -m chaos.sweep_now`, with the
service's environment."""

import asyncio

from service import folder
from service.health import Health
from service.jobs import Job
from service.lifecycle import Lifecycle
from service.media import sweep
from service.resources import open_resources
from service.settings import load

OLD_SECONDS = 0.0


async def main() -> None:
    async with open_resources(load().settings, Health(Lifecycle())) as resources:
        await sweep.sweep(resources, Job(0, sweep.SWEEP, 1, {}))


if __name__ == "__main__":
    folder.ABANDONED_SECONDS = sweep.UNCLAIMED_SECONDS = OLD_SECONDS  # type: ignore[assignment]
    asyncio.run(main())
