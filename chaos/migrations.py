"""Migrations of releases to come, each of which only adds, as docs/deployment.md asks of one."""

import shutil
import subprocess
import sys
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from chaos.stack import Stack
from servers import ROOT

COPIES = 2  # replicas that migrate at once
SECONDS = 120
# {number} makes names new. The one that widens a column changes what prepared statements answer.
ADD = 'op.add_column("media_items", sa.Column("more_{number}", sa.Text()))'
ADD_FILLED = 'op.execute("ALTER TABLE media_items ADD n_{number} integer NOT NULL DEFAULT 0")'
WIDEN = 'op.execute(f"ALTER TABLE media_items ALTER title TYPE varchar({{200 + {number}}})")'
REFER = 'op.execute("CREATE TABLE more_{number} (id uuid PRIMARY KEY REFERENCES media_items)")'
INDEX = """with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY more_{number} ON media_items (title)")"""
CHANGES = (ADD, INDEX, ADD_FILLED, WIDEN, REFER)
REVISION = '''"""One of a later release."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    {change}
'''


class Migrations:
    """A copy of the project's migrations that grows."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.folder = stack.nginx.directory / "migrations"
        shutil.copytree(ROOT / "migrations", self.folder)
        self.number = 0

    def add(self) -> None:
        """One revision more, of the next kind."""
        config = Config()
        config.set_main_option("script_location", str(self.folder))
        before = ScriptDirectory.from_config(config).get_current_head()
        change = CHANGES[self.number % len(CHANGES)].format(number=self.number)
        self.number += 1
        revision = f"later_{self.number:03}"
        path = self.folder / "versions" / f"{revision}.py"
        path.write_text(REVISION.format(revision=revision, before=before, change=change))

    def run(self) -> None:
        """`service migrate`, as several replicas run it. Raises RuntimeError where one fails."""
        command = [sys.executable, str(Path(__file__).with_name("more_migrations.py"))]
        runs = [
            subprocess.Popen(
                [*command, str(self.folder), "migrate"],
                env=dict(self.stack.environment),
                cwd=self.stack.instances[0].web.directory,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(COPIES)
        ]
        for run in runs:
            _, errors = run.communicate(timeout=SECONDS)
            if run.returncode:
                raise RuntimeError(f"service migrate: {run.returncode}: {errors[-2000:]}")
