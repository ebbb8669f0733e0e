"""The background worker, which tells what is alive in it: at SIGUSR1 it collects its garbage, and
writes to `alive.json`. `python -m chaos.watched_worker` is `service worker`."""

import json
import os
import signal
import sys
from pathlib import Path

from chaos.watched_app import alive
from service.__main__ import main

FILE = Path("alive.json")


def _tell(*_: object) -> None:
    partial = FILE.with_suffix(".partial")
    partial.write_text(json.dumps(alive()))
    os.replace(partial, FILE)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _tell)
    sys.exit(main(["worker"]))
