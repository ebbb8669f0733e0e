"""The shipped Gunicorn configuration, with workers that take CHAOS_START_SECONDS to start."""

import os
import time
from pathlib import Path
from typing import Any

shipped = Path(__file__).resolve().parents[1] / os.environ["CHAOS_CONFIG"]
exec(compile(shipped.read_text(), str(shipped), "exec"))
_post_worker_init = globals().get("post_worker_init", lambda worker: None)


def post_worker_init(worker: Any) -> None:
    time.sleep(float(os.environ["CHAOS_START_SECONDS"]))
    _post_worker_init(worker)
