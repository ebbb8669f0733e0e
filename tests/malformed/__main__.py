"""Prints what comes back to each attack, through nginx and straight from the app:

PYTHONPATH=tests python -m malformed [installed|image]
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from malformed import http2
from malformed.stack import running_service
from malformed.table import TABLE
from service.migrate import migrate
from service.settings import Settings


def main(kind: str = "installed") -> None:
    with tempfile.TemporaryDirectory(prefix="service-malformed-") as name:
        directory = Path(name)
        directory.chmod(0o777)
        database = directory / "migrated.sqlite3"
        asyncio.run(migrate(Settings(database_url=f"sqlite:///{database}")))
        with running_service(directory / "site", kind, database) as targets:
            for group, attacks in TABLE.items():
                print(f"\n{group:<44} {'nginx':<16} app")
                for attack in attacks:
                    found = {name: str(target.send(attack)) for name, target in targets.items()}
                    print(f"  {attack.name:<42} {found['nginx']:<16} {found['app']}", flush=True)
            print(f"\n{'HTTP/2':<44} nginx")
            for attack in http2.ATTACKS:
                print(f"  {attack.name:<42} {http2.send(targets['nginx'].nginx, attack)[1]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
