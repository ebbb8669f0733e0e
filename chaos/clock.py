"""Wall clocks that jump, in the processes that are given one; the machine's own stays as it is."""

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

SOURCE = Path(__file__).with_name("clock.c")


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc")


def _build(directory: Path) -> Path:
    """The library that moves a clock."""
    library = directory / "clock.so"
    command = [compiler(), "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    library.chmod(0o755)
    return library


@dataclass(frozen=True)
class Clock:
    """`path` says how far it is off, to all processes that were started with `variables`."""

    library: Path
    path: Path

    def set(self, seconds: float) -> None:
        """So many seconds ahead of the machine's."""
        with open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            file.write(struct.pack("=q", int(seconds * 1e9)))

    @property
    def variables(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "CHAOS_CLOCK": str(self.path)}

    @contextmanager
    def for_children(self) -> Iterator[None]:
        """What is started in this block has it."""
        os.environ.update(self.variables)
        try:
            yield
        finally:
            for name in self.variables:
                del os.environ[name]


@dataclass(frozen=True)
class Clocks:
    """Of the service, and of the servers behind it."""

    service: Clock
    servers: Clock

    def set(self, *, service: float, servers: float) -> None:
        """So many seconds ahead each."""
        self.service.set(service)
        self.servers.set(servers)


@contextmanager
def open_clocks() -> Iterator[Clocks]:
    """Both right. Raises CalledProcessError where the library cannot be built."""
    with TemporaryDirectory(prefix="service-clock-") as temporary:
        directory = Path(temporary)
        directory.chmod(0o755)
        library = _build(directory)
        clocks = Clocks(
            Clock(library, directory / "service"), Clock(library, directory / "servers")
        )
        clocks.set(service=0, servers=0)
        yield clocks
