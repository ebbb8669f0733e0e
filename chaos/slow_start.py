"""The configuration in CHAOS_CONFIG, with workers that take CHAOS_START_SECONDS to start."""

import os
import time
from pathlib import Path
from typing import Any

exec(compile(Path(os.environ["CHAOS_CONFIG"]).read_text(), os.environ["CHAOS_CONFIG"], "exec"))
_post_worker_init = globals().get("post_worker_init", lambda worker: None)


def post_worker_init(worker: Any) -> None:
    time.sleep(float(os.environ["CHAOS_START_SECONDS"]))
    _post_worker_init(worker)
