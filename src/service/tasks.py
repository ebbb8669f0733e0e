"""Every task of the service, from every slice, in one list."""

import service.accounts.tasks
import service.idempotency
import service.job_list
import service.media.tasks
import service.outbox
from service.jobs import by_name

TASKS = by_name(
    [
        *service.outbox.TASKS,
        *service.idempotency.TASKS,
        *service.job_list.TASKS,
        *service.accounts.tasks.TASKS,
        *service.media.tasks.TASKS,
    ]
)
