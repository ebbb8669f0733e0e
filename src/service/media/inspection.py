"""Runs `images` in a process of its own, so that no image can harm more than its own inspection."""

import asyncio
import base64
import json
import logging
import os
import signal
import sys
from functools import cache
from typing import IO

from service.cgroups import Limits, cgroup_limits
from service.media.contents import (
    DAMAGED,
    TOO_COSTLY,
    Inspected,
    Unprocessable,
    inspect_plain,
)
from service.system import usable_cpus

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-I", "-m", "service.media.images")
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LANG")  # and no secret
WALL_SECONDS = 60
MEMORY_BYTES = 512 * 1024 * 1024  # of one process; pictures of 50 million pixels take most of it
OWN_BYTES = 192 * 1024 * 1024  # of whoever runs them: some 110 MiB, and what a container has beside
LEAST_BYTES = 128 * 1024 * 1024  # in which Python and the decoders find room
# How a process ends whose file is at fault. SIGKILL may come from anybody.
REFUSALS: dict[int, str] = {
    signal.SIGXCPU: TOO_COSTLY,
    signal.SIGSEGV: DAMAGED,
    signal.SIGBUS: DAMAGED,
    signal.SIGABRT: DAMAGED,
    signal.SIGFPE: DAMAGED,
    signal.SIGILL: DAMAGED,
}


class InspectionFailed(Exception):
    """The process ended without an answer, for a reason that is not known to be the file's."""


def memory_share(limits: Limits) -> int:
    """What one process may take where as many run at once as there are CPUs: beyond the memory of
    the container the kernel would end any of them, or all there is in it."""
    if limits.memory_bytes is None:
        return MEMORY_BYTES
    at_once = max(1, int(usable_cpus(limits)))
    return max(LEAST_BYTES, min(MEMORY_BYTES, (limits.memory_bytes - OWN_BYTES) // at_once))


@cache
def memory_bytes() -> int:
    return memory_share(cgroup_limits())


async def inspect(file: IO[bytes]) -> Inspected:
    """Facts about a file on disk. Raises Unprocessable or InspectionFailed, and OSError."""
    facts = await asyncio.to_thread(inspect_plain, file)
    if facts is not None:
        return facts
    os.lseek(file.fileno(), 0, os.SEEK_SET)  # which the process begins at; seek() may not tell
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        str(memory_bytes()),
        stdin=file,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
        start_new_session=True,  # Ctrl-C is for the parent, which may finish what it began
    )
    try:
        async with asyncio.timeout(WALL_SECONDS):
            answer, complaint = await process.communicate()
    except TimeoutError:
        raise Unprocessable(TOO_COSTLY) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise _failure(process.returncode, complaint.decode(errors="replace"))
    return _read(answer)


def _failure(code: int, complaint: str) -> Exception:
    reason = REFUSALS.get(-code)
    if reason is None:
        return InspectionFailed(f"exit code {code}: {complaint[-1000:]}")
    log.warning("inspection_ended", extra={"signal": signal.Signals(-code).name})
    return Unprocessable(reason)


def _read(answer: bytes) -> Inspected:
    facts = json.loads(answer)
    if "refused" in facts:
        log.info("inspection_refused", extra={"reason": facts["refused"], "cause": facts["cause"]})
        raise Unprocessable(facts["refused"])
    thumbnail = facts["thumbnail"]
    return Inspected(
        **facts
        | {
            "sha256": bytes.fromhex(facts["sha256"]),
            "thumbnail": None if thumbnail is None else base64.b64decode(thumbnail),
        }
    )
