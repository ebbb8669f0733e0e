"""`service` with another folder of migrations: more_migrations.py FOLDER COMMAND"""

import sys
from pathlib import Path

import service.migrate
from service.__main__ import main

if __name__ == "__main__":
    service.migrate.MIGRATIONS = Path(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
