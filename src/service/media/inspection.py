"""Runs `images` in a process of its own, so that no image can harm more than its own inspection."""

import asyncio
import base64
import json
import logging
import os
import signal
import sys
from typing import IO

from service.media.contents import (
    DAMAGED,
    TOO_COSTLY,
    Inspected,
    Unprocessable,
    inspect_plain,
)

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-I", "-m", "service.media.images")
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LANG")  # and no secret
WALL_SECONDS = 60
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


async def inspect(file: IO[bytes]) -> Inspected:
    """Facts about a file on disk. Raises Unprocessable or InspectionFailed, and OSError."""
    facts = await asyncio.to_thread(inspect_plain, file)
    if facts is not None:
        return facts
    os.lseek(file.fileno(), 0, os.SEEK_SET)  # which the process begins at; seek() may not tell
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
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
