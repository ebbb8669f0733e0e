"""The directory of a master's metric files. Made before prometheus-client is imported, which looks
for it only then; so this module does not import it.
"""

import atexit
import fcntl
import glob
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "service-metrics-"
OWNER = "owner"  # locked while the master or one of its workers lives
LOCK = "lock"

_owned: list[IO[str]] = []  # open, and with it locked, until the process ends


def prepare_directory(parent: str, uid: int, gid: int) -> None:
    """Give this master's workers, which run as `uid` and `gid`, a directory for metric files.

    Call it before the first metric is made; a second call, at a reload, keeps the directory. One
    that is inherited through the environment belongs to another master (USR2 starts a new one
    while the old still serves) and is not used.
    """
    if _owned:
        return
    _remove_abandoned(parent, uid)
    draft = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    owner = (draft / OWNER).open("w")
    fcntl.flock(owner, fcntl.LOCK_EX)
    (draft / LOCK).touch(0o644)
    for path in (draft, draft / LOCK):
        os.chown(path, uid, gid)
    directory = draft.rename(draft.with_name(draft.name[1:]))
    _owned.append(owner)
    os.environ[DIRECTORY_VARIABLE] = str(directory)
    atexit.register(_remove, str(directory), os.getpid())


def directory() -> str | None:
    """Where the processes of this master keep their metrics; None in a process of its own."""
    return os.environ.get(DIRECTORY_VARIABLE)


def _remove(directory: str, master: int) -> None:
    if os.getpid() == master:  # workers inherit this function
        shutil.rmtree(directory, ignore_errors=True)


def _remove_abandoned(parent: str, uid: int) -> None:
    """Remove what masters left behind that were killed.

    A lock tells whether one lives, as a process id from another container would mean nothing.
    """
    for path in glob.glob(os.path.join(glob.escape(parent), f"{PREFIX}*")):
        try:
            if os.lstat(path).st_uid not in (os.geteuid(), uid):
                continue
            with open(os.path.join(path, OWNER)) as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
        except OSError:
            continue
