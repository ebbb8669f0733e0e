"""The auditor of the fault suite finds each kind of damage, here done by hand, and nothing else."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from chaos import audit, remains
from chaos.load import Load, is_picture
from chaos.remains import examine
from chaos.site import NAME, open_site
from chaos.stack import Stack

from servers import find_program, postgresql_program, require, wait_until

pytestmark = pytest.mark.timeout(300)

ENOUGH = 62  # uploads, of which four are pictures


class Damaged:
    """A stack at rest, whose uploads are damaged one after another."""

    def __init__(self, stack: Stack, load: Load) -> None:
        self.stack = stack
        self._plain = (load.accepted[n] for n in list(load.accepted) if n % 10 not in (0, 1))
        self._pictures = (load.accepted[n] for n in list(load.accepted) if is_picture(n))
        self._load = load
        self._found: Counter[str] = Counter()

    def newly_found(self) -> dict[str, int]:
        """How many more than before, in each column in which there are more."""
        left = examine(self.stack, self._load)
        counts = {name: value for name, value in vars(left).items() if isinstance(value, int)}
        counts |= {name: len(numbers) for name, numbers in vars(left.audit).items()}
        new = Counter(counts) - self._found
        self._found = Counter(counts | {"orphan_bytes": left.unswept})  # the others are swept
        return dict(new)

    def upload(self) -> str:
        """The id of one that is whole."""
        return next(self._plain)

    def picture(self) -> str:
        return next(self._pictures)

    def write(self, item_id: str, name: str, data: bytes) -> None:
        (self.stack.kept / _digits(item_id) / name).write_bytes(data)

    def set(self, item_id: str, what: str) -> None:
        self.stack.query(f"UPDATE media_items SET {what} WHERE id = '{item_id}'")

    def take_mail(self, item_id: str) -> bytes:
        """Out of the mailbox."""
        mail = self.stack.mail
        key = f"media-{_digits(item_id)}@".encode()
        place = next(n for n, content in enumerate(mail.contents) if key in content)
        del mail.taken_at[place]
        return mail.contents.pop(place)

    def add_mail(self, content: bytes) -> None:
        self.stack.mail.contents.append(content)
        self.stack.mail.taken_at.append(0.0)


def _digits(item_id: str) -> str:
    return item_id.replace("-", "")


@pytest.fixture(scope="module")
def damaged() -> Iterator[Damaged]:
    require(postgresql_program("postgres"), "PostgreSQL")
    require(find_program("redis-server"), "Redis")
    with open_site("") as site:
        stack = site.start().stack
        load = Load(NAME, stack.url, stack.bearer.header, stack.nginx.tls())
        with load.running():
            wait_until(lambda: len(load.accepted) >= ENOUGH, seconds=60)
        found = Damaged(stack, load)
        # An upload that was refused after its bytes had come is left to the sweep.
        assert found.newly_found().keys() <= {"orphan_bytes"}
        for worker in site.workers:
            worker.stop(signal.SIGTERM)  # it would mend some of it
        yield found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (audit, remains):
        monkeypatch.setattr(module, "STUCK_SECONDS", 1.0)


def change_a_byte(damaged: Damaged) -> None:
    item_id = damaged.upload()
    data = damaged.stack.stored(item_id)
    assert data
    damaged.write(item_id, "original", data[:-1] + bytes([data[-1] ^ 1]))


def remove_the_row(damaged: Damaged) -> None:
    damaged.stack.query(f"DELETE FROM media_items WHERE id = '{damaged.upload()}'")


def copy_the_row(damaged: Damaged) -> None:
    columns = (
        "account_id, title, filename, public, size, status, has_thumbnail, created_at, updated_at"
    )
    damaged.stack.query(
        f"INSERT INTO media_items (id, {columns}, progress, attempt) SELECT '{uuid4()}', {columns},"
        f" progress, attempt FROM media_items WHERE id = '{damaged.upload()}'"
    )


def fail(damaged: Damaged) -> None:
    damaged.set(damaged.upload(), "status = 'failed'")


def process_again(damaged: Damaged) -> None:
    item_id = damaged.upload()
    damaged.set(item_id, "status = 'processing'")
    damaged.set(item_id, "status = 'ready'")


def forget_a_change(damaged: Damaged) -> None:
    damaged.stack.query("DELETE FROM witness_revisions WHERE revision = 7")


def count_a_change_twice(damaged: Damaged) -> None:
    damaged.stack.query(
        "INSERT INTO witness_revisions SELECT * FROM witness_revisions WHERE revision = 8"
    )


def leave_a_file(damaged: Damaged) -> None:
    folder = damaged.stack.kept / uuid4().hex
    folder.mkdir()
    (folder / "original").write_bytes(b"nobody's")


def leave_what_no_sweep_knows(damaged: Damaged) -> None:
    (damaged.stack.kept / "stranger").write_bytes(b"?")


def remove_a_thumbnail(damaged: Damaged) -> None:
    (damaged.stack.kept / _digits(damaged.picture()) / "thumbnail").unlink()


def break_a_thumbnail(damaged: Damaged) -> None:
    damaged.write(damaged.picture(), "thumbnail", b"no picture")


def lose_a_mail(damaged: Damaged) -> None:
    damaged.take_mail(damaged.upload())


def refuse_a_mail(damaged: Damaged) -> None:
    item_id = damaged.upload()
    damaged.take_mail(item_id)
    set_refused = "UPDATE mails SET refused = '550', sent_at = NULL"
    damaged.stack.query(f"{set_refused} WHERE key = 'media-{_digits(item_id)}'")


def send_a_mail_again(damaged: Damaged) -> None:
    mail = damaged.take_mail(damaged.upload())
    damaged.add_mail(mail)
    damaged.add_mail(mail)


def send_a_stray_mail(damaged: Damaged) -> None:
    damaged.add_mail(b"Message-ID: <stray@example.org>\r\n\r\nHello\r\n")


FOUND: dict[Callable[[Damaged], None], dict[str, int]] = {
    change_a_byte: {"lost": 1},
    # Its answer, its change and its mail; and what nobody claims any longer.
    remove_the_row: {"lost": 1, "orphan_rows": 3, "orphan_bytes": 1, "stray_mails": 1},
    # Without a change and without bytes.
    copy_the_row: {"twice": 1, "orphan_rows": 2, "unmailed": 1, "mails": 1},
    fail: {"failed": 1, "not_ready": 1},
    process_again: {"ended_twice": 1},
    forget_a_change: {"gaps": 1},
    count_a_change_twice: {"gaps": 1},
    leave_a_file: {"orphan_bytes": 1},
    leave_what_no_sweep_knows: {"orphan_bytes": 1, "unswept": 1},
    remove_a_thumbnail: {"thumbnails": 1, "orphan_rows": 1},
    break_a_thumbnail: {"thumbnails": 1},
    lose_a_mail: {"unmailed": 1, "mails": 1},
    refuse_a_mail: {"mails": 1},
    send_a_mail_again: {"mailed_twice": 1, "mails": 1},
    send_a_stray_mail: {"stray_mails": 1},
}


@pytest.mark.parametrize("damage", FOUND, ids=lambda damage: damage.__name__)
def test_damage_is_found(damaged: Damaged, damage: Callable[[Damaged], None]) -> None:
    damage(damaged)
    assert damaged.newly_found() == FOUND[damage]


@pytest.mark.usefixtures("impatient")
def test_what_is_never_done_is_found(damaged: Damaged) -> None:
    """An upload (its end and its mail), a mail, a job."""
    item_id, mailed = damaged.upload(), damaged.upload()
    damaged.set(item_id, "status = 'received'")
    damaged.stack.query(
        f"UPDATE mails SET sent_at = NULL WHERE key = 'media-{_digits(mailed)}';"
        " INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
        " VALUES ('default', 'unknown', '{}')"
    )
    found = damaged.newly_found()
    assert found == {"unfinished": 4, "not_ready": 1, "stray_mails": 1}
