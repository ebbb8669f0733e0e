"""`make chaos`: every part, as a table each and in bench/chaos.json.

usage: python -m chaos [--short] [--only TEXT] [--events NUMBER] [part ...]
"""

import argparse
import json
import logging
import os
import signal
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def main(arguments: list[str]) -> int:
    """Run all parts, or those named. Returns 1 where a bound is missed."""
    from chaos.deploys import DEPLOYS
    from chaos.hangs import HANGS
    from chaos.kubernetes import KUBERNETES
    from chaos.leaks import LEAKS
    from chaos.losses import LOSSES
    from chaos.overload import OVERLOAD
    from chaos.parts import Options, run_part
    from chaos.table import missed, show, write
    from servers import end_with_parent

    parts = {
        "deploys": DEPLOYS,
        "losses": LOSSES,
        "hangs": HANGS,
        "overload": OVERLOAD,
        "leaks": LEAKS,
    }
    alone = {"kubernetes": KUBERNETES}  # needs a cluster
    parser = argparse.ArgumentParser(prog="python -m chaos")
    parser.add_argument("parts", nargs="*", choices=[[], *parts, *alone], metavar="part")
    parser.add_argument("--short", action="store_true", help="a few events each, and no rival")
    parser.add_argument("--only", default="", help="scenarios whose name holds this text")
    parser.add_argument("--events", type=int, help="in each scenario")
    parser.add_argument("--scenario", help="this one alone, in this process, as JSON")
    given = parser.parse_args(arguments)
    options = Options(given.short, given.only, given.events)
    signal.signal(signal.SIGTERM, _end)
    # Once a login; that a mail server takes passwords without TLS is meant here.
    warnings.filterwarnings("ignore", module="aiosmtpd")
    logging.getLogger("mail").setLevel(logging.ERROR)
    os.environ["PYTHONPATH"] = f"{ROOT}/src{os.pathsep}{ROOT}"
    known = parts | alone
    if given.scenario is not None:
        end_with_parent()
        (name,) = given.parts
        print(json.dumps(known[name].run(given.scenario, options)))
        return 0
    results, started = {}, time.monotonic()
    for name in given.parts or parts:
        began = time.monotonic()
        results[name] = run_part(name, known[name], options)
        print(f"\n{name}, in {time.monotonic() - began:.0f} s\n{show(results[name])}")
    if not arguments:
        write(results, ROOT / "bench" / "chaos.json")
    wrong = [f"{name}: {row}" for name, rows in results.items() for row in missed(rows)]
    print(f"\nmissed: {', '.join(wrong) or 'nothing'}, in {time.monotonic() - started:.0f} s")
    return 1 if wrong else 0


def _end(*_: object) -> None:
    """What this process started is ended on the way out, once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit("ended")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
