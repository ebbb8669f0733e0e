"""The process that looks at files: what it may take, and how it can end."""

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil
import pytest

from pictures import animation, halves, jpeg_of_many_scans, png_of, saved, turned, webp_of
from servers import ROOT
from service.cgroups import Limits
from service.media import images, inspection
from service.media.contents import DAMAGED, TOO_COSTLY, Inspected, Unprocessable
from service.media.inspection import InspectionFailed

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
FACTS = {"sha256": "00", "content_type": "x/y", "width": None, "height": None, "thumbnail": None}

Become = Callable[[str], None]


@contextmanager
def on_disk(content: bytes) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield file


async def inspect(content: bytes = b"GIF8 as far as one can tell") -> Inspected:
    with on_disk(content) as file:
        return await inspection.inspect(file)


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Become:
    """Makes the process run other code."""

    def run(code: str) -> None:
        monkeypatch.setattr(inspection, "COMMAND", (sys.executable, "-I", "-c", code))

    return run


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"hello", b"x" * 1_000_000),
        *(saved(halves(), kind) for kind in ("JPEG", "PNG", "GIF", "WEBP")),
        *(turned(6, kind) for kind in ("JPEG", "PNG", "WEBP")),
        *(animation(kind) for kind in ("GIF", "PNG", "WEBP", "MPO")),
        *(saved(halves(mode=mode), "PNG") for mode in ("P", "LA", "RGBA", "1")),
        saved(halves(mode="L").convert("I;16"), "PNG"),
        *(saved(halves(mode=mode), "JPEG") for mode in ("L", "CMYK")),
    ],
)
async def test_its_facts_are_those_of_the_content(content: bytes) -> None:
    with on_disk(content) as file:
        assert await inspect(content) == images.inspect(file)  # type: ignore[arg-type]


async def test_what_is_no_image_needs_no_process(become: Become) -> None:
    """There is nothing to decode."""
    become("raise RuntimeError('this was run')")
    assert (await inspect(b"%PDF-1.7")).content_type == "application/pdf"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(png_of(9000, 9000), "The image has more than 50,000,000 pixels."), (b"GIF89a", DAMAGED)],
)
async def test_its_refusal_comes_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(Unprocessable) as caught:
        await inspect(content)
    assert str(caught.value) == reason


async def test_a_file_that_takes_the_decoder_hours_is_ended(become: Become) -> None:
    become("from service.media import images; images.CPU_SECONDS = 1; images.main()")
    content = jpeg_of_many_scans(5000)
    assert len(content) < 1_000_000
    with pytest.raises(Unprocessable, match=TOO_COSTLY):
        await inspect(content)


async def test_a_file_that_takes_more_memory_than_is_due_is_ended() -> None:
    """90 bytes that would take 780 MB."""
    content = webp_of(7000, 7000)
    assert len(content) < 100
    with pytest.raises(Unprocessable, match=TOO_COSTLY):
        await inspect(content)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGSEGV, DAMAGED),
        (signal.SIGBUS, DAMAGED),
        (signal.SIGABRT, DAMAGED),
        (signal.SIGFPE, DAMAGED),
        (signal.SIGXCPU, TOO_COSTLY),
    ],
)
async def test_a_decoder_that_crashes_takes_nothing_with_it(
    become: Become, number: signal.Signals, reason: str
) -> None:
    become(f"import os; os.kill(os.getpid(), {int(number)})")
    with pytest.raises(Unprocessable, match=reason):
        await inspect()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
async def test_a_process_that_somebody_ended_is_tried_again(
    become: Become, number: signal.Signals
) -> None:
    become(f"import os; os.kill(os.getpid(), {int(number)})")
    with pytest.raises(InspectionFailed):
        await inspect()


async def test_a_process_that_fails_says_why_to_the_operator(become: Become) -> None:
    become("raise RuntimeError('no such library')")
    with pytest.raises(InspectionFailed, match="no such library"):
        await inspect()


async def test_a_process_that_hangs_is_ended(
    become: Become, monkeypatch: pytest.MonkeyPatch
) -> None:
    become("import time; time.sleep(60)")
    before = psutil.Process().children()
    monkeypatch.setattr(inspection, "WALL_SECONDS", 0.5)
    with pytest.raises(Unprocessable, match=TOO_COSTLY):
        await inspect()
    assert psutil.Process().children() == before


async def test_a_cancelled_inspection_leaves_no_process(become: Become) -> None:
    become("import time; time.sleep(60)")
    before = psutil.Process().children()
    running = asyncio.create_task(inspect())
    async with asyncio.timeout(10):
        while not (started := set(psutil.Process().children()) - set(before)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not any(child.is_running() for child in started)


async def test_the_process_knows_no_secret(become: Become, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "the-s3cret")
    facts = json.dumps(FACTS)
    become(
        "import json, os\n"
        f"facts = json.loads({facts!r})\n"
        "facts['content_type'] = json.dumps(dict(os.environ))\n"
        "print(json.dumps(facts))"
    )
    assert "the-s3cret" not in (await inspect()).content_type


async def test_the_process_writes_no_file(become: Become, tmp_path: Path) -> None:
    become(
        "from service.media import images; images.limit_resources(2**29)\n"
        f"file = open({str(tmp_path / 'file')!r}, 'w'); file.write('x'); file.flush()"
    )
    with pytest.raises(InspectionFailed, match="File too large"):
        await inspect()
    assert os.path.getsize(tmp_path / "file") == 0


@pytest.mark.parametrize("act", ["open('/etc/passwd')", "socket.socket()", "os.pipe()"])
async def test_the_process_opens_nothing_beside_its_picture(become: Become, act: str) -> None:
    """Nor in the place of what it closes."""
    become(
        "import os, socket\nfrom service.media import images\n"
        f"images.limit_resources(2**29); images.shut_doors(); os.close(1); {act}"
    )
    with pytest.raises(InspectionFailed, match="Too many open files"):
        await inspect()


@pytest.mark.parametrize(
    ("cpus", "memory_mib", "share_mib"),
    [
        (None, None, 512),
        (1, None, 512),
        (1, 4096, 512),
        (1, 768, 512),
        (0.5, 704, 512),
        (1, 512, 320),
        (1, 64, 128),
    ],
)
def test_its_memory_is_what_its_container_has_beside_the_worker(
    cpus: float | None, memory_mib: int | None, share_mib: int
) -> None:
    limits = Limits(cpus, memory_mib and memory_mib * MIB)
    assert inspection.memory_share(limits) == share_mib * MIB


def test_pictures_at_once_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "usable_cpus", lambda limits: limits.cpus)
    assert inspection.memory_share(Limits(2, 768 * MIB)) == 288 * MIB
    assert inspection.memory_share(Limits(2, 1216 * MIB)) == 512 * MIB


async def test_it_is_told_how_much_memory_it_may_take(
    become: Become, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "memory_bytes", lambda: 300 * MIB)
    facts = json.dumps(FACTS)
    become(
        "import json, resource, sys\nfrom service.media import images\n"
        "images.limit_resources(int(sys.argv[1]))\n"
        f"facts = json.loads({facts!r})\n"
        "facts['width'] = resource.getrlimit(resource.RLIMIT_AS)[0]\n"
        "print(json.dumps(facts))"
    )
    assert (await inspect()).width == 300 * MIB


def test_production_has_the_memory_for_the_largest_pictures() -> None:
    """As shipped: one CPU."""
    needed = (inspection.OWN_BYTES + inspection.MEMORY_BYTES) / MIB
    for name, pattern in (
        ("compose.production.yaml", r"WORKER_MEMORY:-(\d+)M"),
        ("deploy/kubernetes/base/worker.yaml", r"memory: (\d+)Mi # 192Mi"),
        (".env.example", r"WORKER_MEMORY=(\d+)M"),
    ):
        (given,) = re.findall(pattern, (ROOT / name).read_text())
        assert int(given) >= needed
