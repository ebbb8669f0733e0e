"""Every task of the service, from every slice, in one list."""

import service.idempotency
import service.media.tasks
import service.outbox
from service.jobs import by_name

TASKS = by_name([*service.outbox.TASKS, *service.idempotency.TASKS, *service.media.tasks.TASKS])
