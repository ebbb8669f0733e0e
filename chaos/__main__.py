"""`make chaos`: every part, as a table each and in bench/chaos.json.

usage: python -m chaos [--short] [--only TEXT] [--events NUMBER] [part ...]
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def main(arguments: list[str]) -> int:
    """Run all parts, or those named. Returns 1 where a bound is missed."""
    from chaos.deploys import deploys
    from chaos.stack import open_servers
    from chaos.table import missed, show, write

    parts = {"deploys": deploys}
    parser = argparse.ArgumentParser(prog="python -m chaos")
    parser.add_argument("parts", nargs="*", choices=[[], *parts], metavar="part")
    parser.add_argument("--short", action="store_true", help="a few events each, and no rival")
    parser.add_argument("--only", default="", help="scenarios whose name holds this text")
    parser.add_argument("--events", type=int, help="in each scenario")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and what it started with it
    os.environ["PYTHONPATH"] = f"{ROOT}/src{os.pathsep}{ROOT}"
    results = {}
    with open_servers() as servers:
        for name in options.parts or parts:
            began = time.monotonic()
            chosen = {"short": options.short, "only": options.only, "count": options.events}
            results[name] = parts[name](servers, **chosen)
            print(f"\n{name}, in {time.monotonic() - began:.0f} s\n{show(results[name])}")
    if not arguments:
        write(results, ROOT / "bench" / "chaos.json")
    return 1 if any(map(missed, results.values())) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
