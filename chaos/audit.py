"""What became of a load's uploads, counted where they are kept: nothing is asked of the service."""

import hashlib
import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Protocol

from chaos.load import Load, content
from chaos.table import Row
from mail_server import MailServer

STUCK_SECONDS = 60.0
# An upload counts twice, as the end of one is the beginning of its mail.
UNFINISHED = (
    "SELECT 2 * (SELECT count(*) FROM media_items WHERE status NOT IN ('ready', 'failed'))"
    " + (SELECT count(*) FROM mails WHERE sent_at IS NULL AND refused IS NULL)"
)
ITEMS = "SELECT title, id, status FROM media_items ORDER BY created_at"


class Kept(Protocol):
    """Where what a load brought about can be seen."""

    @property
    def mail(self) -> MailServer: ...

    def query(self, sql: str) -> str: ...

    def stored(self, item_id: str) -> bytes | None:
        """The bytes of an upload, read where they are kept."""


@dataclass(frozen=True)
class Audit:
    """Numbers of uploads by what is wrong with them."""

    lost: list[int]
    """Accepted, and there is not the row that was answered, or not its very bytes"""
    twice: list[int]
    """With more than one row"""
    not_ready: list[int]
    """Processing did not end, or failed"""
    mails: list[int]
    """Their owner did not get exactly one mail"""
    given_up: list[int]
    """Not accepted, however often they were repeated"""

    @property
    def clean(self) -> bool:
        return not any((self.given_up, self.lost, self.twice, self.not_ready, self.mails))

    def columns(self) -> Row:
        return {
            "also when repeated": len(self.given_up),
            "lost": len(self.lost),
            "twice": len(self.twice),
            "not ready": len(self.not_ready),
            "not one mail": len(self.mails),
        }


def audit(kept: Kept, load: Load) -> Audit:
    """Once everything is processed and mailed, or does not get any further."""
    settle(kept)
    rows = defaultdict(list)
    for line in kept.query(ITEMS).splitlines():
        title, item_id, status = line.split("|")
        name, _, number = title.rpartition("-")
        if name == load.name:
            rows[int(number)].append((item_id, status))
    mails = _mails(kept, load)
    ids = {item_id for found in rows.values() for item_id, _ in found}
    accepted = load.accepted.items()
    return Audit(
        lost=[n for n, item_id in accepted if item_id not in ids or not _whole(kept, n, item_id)],
        twice=[n for n, found in rows.items() if len(found) > 1],
        not_ready=[n for n, found in rows.items() if any(s != "ready" for _, s in found)],
        mails=[n for n, found in rows.items() if mails[n] != len(found)],
        given_up=load.given_up,
    )


def settle(kept: Kept) -> None:
    """Wait as long as there is something to do and it gets less."""
    left, since = kept.query(UNFINISHED), time.monotonic()
    while left != "0" and time.monotonic() - since < STUCK_SECONDS:
        time.sleep(0.5)
        former, left = left, kept.query(UNFINISHED)
        since = since if left == former else time.monotonic()


def _whole(kept: Kept, number: int, item_id: str) -> bool:
    """Whether every byte of an upload is there."""
    stored = kept.stored(item_id)
    return stored is not None and _digest(stored) == _digest(content(number))


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _mails(kept: Kept, load: Load) -> Counter[int]:
    """How many the mail server was given, by the number in the text."""
    title = re.compile(rb"^" + load.name.encode() + rb"-(\d+)\r?$", re.MULTILINE)
    found = (title.search(mail) for mail in list(kept.mail.contents))
    return Counter(int(match[1]) for match in found if match)
