"""The directory of a master's metric files. Made before prometheus-client is imported, which looks
for it only then; so this module does not import it.
"""

import os
import shutil
import tempfile

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def prepare_directory(parent: str | None) -> None:
    """Give this master's workers a fresh directory for their metric files.

    Call it before the first metric is made. A directory inherited through the environment belongs
    to another master (USR2 starts a new one while the old still serves) and is not used.
    """
    parent = parent if parent and os.access(parent, os.W_OK) else None
    mine = f"service-metrics-{os.getpid()}-"
    current = os.environ.get(DIRECTORY_VARIABLE, "")
    if not os.path.basename(current).startswith(mine) or not os.path.isdir(current):
        os.environ[DIRECTORY_VARIABLE] = tempfile.mkdtemp(prefix=mine, dir=parent)


def remove_directory() -> None:
    """Remove the directory at the end of the master that made it."""
    if directory := os.environ.get(DIRECTORY_VARIABLE):
        shutil.rmtree(directory, ignore_errors=True)
