"""`make bench`: every figure, as a table and in bench/results.json. Takes about eleven minutes."""

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def main(names: list[str]) -> int:
    """Run all benchmarks, or those named. Returns 1 where a bound is missed."""
    from bench import enumeration, jobs, process, proxy, public, requests, scaling, uploads
    from bench.table import Row, show, write
    from servers import Postgresql, RedisServer, running

    os.environ["PYTHONPATH"] = f"{ROOT}/src{os.pathsep}{ROOT}"
    with tempfile.TemporaryDirectory(prefix="service-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with (
            running(Postgresql(directory / "postgresql").create()) as postgresql,
            running(RedisServer(directory / "redis")) as redis,
        ):
            servers = (directory, postgresql, redis)
            all_of_them = {
                "trivial": lambda: requests.trivial(*servers),
                "me": lambda: requests.who_am_i(*servers),
                "list": lambda: requests.list_items(*servers),  # media
                "proxy": lambda: proxy.proxy(*servers),
                "public": lambda: public.public(*servers),  # media
                "jobs": lambda: jobs.jobs(*servers),
                "probes": lambda: process.probes(directory),
                "memory": lambda: process.memory(*servers),
                "startup": lambda: process.startup(*servers),
                "upload": lambda: process.upload(*servers),  # media
                "reads_during_uploads": lambda: uploads.reads_during_uploads(*servers),  # media
                "web_replicas": lambda: scaling.web_replicas(*servers),
                "worker_replicas": lambda: scaling.worker_replicas(*servers),
                "pooler": lambda: scaling.pooler(*servers),
                "traces": lambda: scaling.traces(*servers),
                "enumeration": lambda: enumeration.enumeration(*servers),
            }
            rows: list[Row] = []
            for key in names or all_of_them:
                print(f"measuring: {key}", file=sys.stderr)
                rows += all_of_them[key]()
    print(show(rows))
    if not names:
        write(rows, ROOT / "bench" / "results.json")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
