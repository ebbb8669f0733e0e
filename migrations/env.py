"""Alembic runs inside `service migrate`, which hands over its connection and its lock."""

from alembic import context

import service.accounts.models
import service.idempotency
import service.jobs
import service.media.models
import service.outbox
import service.schedule  # noqa: F401  (every module with tables, for autogenerate)
from service.database import Base

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("run `service migrate`: it takes the lock that makes this safe")

context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    transactional_ddl=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
