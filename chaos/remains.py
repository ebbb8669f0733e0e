"""What is left after all that was done to a stack: read from the database, the storage and the
mailbox."""

from __future__ import annotations

import io
import re
import statistics
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from chaos import witness
from chaos.audit import STUCK_SECONDS, UNFINISHED, Audit, audit, settle
from chaos.load import Load, is_picture
from chaos.stack import Stack
from servers import ROOT, wait_until

MESSAGE_ID = re.compile(rb"^Message-ID: <([^@>]+)@", re.MULTILINE | re.IGNORECASE)
SWEEP_SECONDS = 60


@dataclass(frozen=True)
class Remains:
    """Counts, but for `audit`."""

    audit: Audit
    unfinished: int
    """Uploads, mails and jobs that are still to be done, and do not get any further"""
    failed: int
    """Uploads that ended so"""
    ended_twice: int
    """Uploads that were made ready or failed more than once"""
    orphan_rows: int
    """Rows about an item that is not there, and items without their bytes"""
    orphan_bytes: int
    """Files of no item, before the sweep"""
    unswept: int
    """Those that are left after it"""
    thumbnails: int
    """Pictures without exactly one, and what is none with one"""
    unmailed: int
    """Items that ended and whose owner got no mail, though the mail server refused none"""
    mailed_twice: int
    """Items whose mail came more than once, each time under the same Message-ID"""
    stray_mails: int
    """About no item"""
    gaps: int
    """Numbers of changes that are missing or there twice"""
    window: str
    """From the acceptance of a mail to the commit that records it: median and 99th percentile"""


@dataclass(frozen=True)
class Item:
    title: str
    hex: str
    status: str
    has_thumbnail: bool

    @property
    def number(self) -> int:
        return int(self.title.rpartition("-")[2])


def examine(stack: Stack, load: Load) -> Remains:
    """Once nothing gets any further. Sweeps, as if all that nobody claims were old."""
    settle(stack)
    with suppress(TimeoutError):
        wait_until(lambda: not _number(stack, witness.JOBS_LEFT), seconds=STUCK_SECONDS, every=0.5)
    unfinished = _number(stack, UNFINISHED) + _number(stack, witness.JOBS_LEFT)
    items = [_item(line) for line in stack.query(witness.ITEMS).splitlines()]
    before = _strays(stack, items)
    _sweep(stack)
    mails = Counter(_keys(stack))
    refused = set(stack.query(witness.REFUSED).splitlines())
    expected = {f"media-{item.hex}" for item in items if item.status in ("ready", "failed")}
    return Remains(
        audit=audit(stack, load),
        unfinished=unfinished,
        failed=sum(item.status == "failed" for item in items),
        ended_twice=_number(stack, witness.ENDED_TWICE),
        orphan_rows=_number(stack, witness.ORPHAN_ROWS) + len(_wanted(items) - _files(stack.kept)),
        orphan_bytes=len(before),
        unswept=len(_strays(stack, items)),
        thumbnails=sum(not _thumbnail_right(stack, item) for item in items),
        unmailed=len(expected - set(mails) - refused),
        mailed_twice=sum(count > 1 for count in mails.values()),
        stray_mails=len(set(mails) - expected),
        gaps=_number(stack, witness.GAPS),
        window=_window(stack),
    )


def _number(stack: Stack, sql: str) -> int:
    return int(stack.query(sql))


def _item(line: str) -> Item:
    title, digits, status, has_thumbnail = line.split("|")
    return Item(title, digits, status, has_thumbnail == "1")


def _files(folder: Path) -> set[str]:
    """Drafts as well."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _wanted(items: list[Item]) -> set[str]:
    thumbnails = {f"{item.hex}/thumbnail" for item in items if item.has_thumbnail}
    return thumbnails | {f"{item.hex}/original" for item in items}


def _strays(stack: Stack, items: list[Item]) -> set[str]:
    return _files(stack.kept) - _wanted(items)


def _sweep(stack: Stack) -> None:
    command = [sys.executable, "-m", "chaos.sweep_now"]
    done = subprocess.run(
        command,
        check=False,
        env=stack.environment,
        cwd=ROOT,
        capture_output=True,
        timeout=SWEEP_SECONDS,
    )
    if done.returncode:
        raise RuntimeError(f"the sweep failed: {done.stderr.decode()[-2000:]}")


def _thumbnail_right(stack: Stack, item: Item) -> bool:
    path = stack.kept / item.hex / "thumbnail"
    if item.status != "ready" or not is_picture(item.number):
        return item.has_thumbnail is False
    with suppress(OSError):
        return item.has_thumbnail and Image.open(io.BytesIO(path.read_bytes())).format == "WEBP"
    return False


def _keys(stack: Stack) -> list[str]:
    """Of all mails that the server took, in their order."""
    found = [MESSAGE_ID.search(mail) for mail in stack.mail.contents]
    return [match[1].decode() if match else "" for match in found]


def _window(stack: Stack) -> str:
    taken = dict(zip(_keys(stack), stack.mail.taken_at, strict=True))  # the last one of each
    recorded = witness.recorded(stack)
    windows = [1000 * (recorded[key] - taken[key]) for key in recorded if key in taken]
    if len(windows) < 2:
        return ""
    return f"{statistics.median(windows):.0f}, {statistics.quantiles(windows, n=100)[-1]:.0f}"
