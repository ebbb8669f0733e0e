"""Jobs for operators, behind HEALTH_TOKEN: what failed and why, run again or discarded.

As `service jobs` has it, for who has no shell on a server.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Response
from starlette.requests import Request

from service.details import authorised
from service.errors import ServiceError
from service.job_list import JobList
from service.resources import Provided

MOST_LISTED = 1000

Number = Annotated[int, Path(ge=1, le=2**53)]  # as far as JSON's readers count


class NotAnOperator(ServiceError):
    status = 401
    headers = {"WWW-Authenticate": "Bearer"}

    def __init__(self) -> None:
        super().__init__("The operators' token is needed.")


class NoFailedJob(ServiceError):
    status = 404

    def __init__(self) -> None:
        super().__init__("There is no such job that failed.")


async def _operator(request: Request, resources: Provided) -> None:
    """Without a configured token nobody is one, and there is nothing here."""
    token = resources.settings.health_token
    if token is None:
        raise HTTPException(404)
    if not authorised(token, request.scope):
        raise NotAnOperator


router = APIRouter(
    prefix="/api/operations", include_in_schema=False, dependencies=[Depends(_operator)]
)


@router.get("/jobs")
async def list_jobs(
    resources: Provided,
    status: Annotated[Literal["failed", "doing", "todo"], Query()] = "failed",
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 100,
) -> dict[str, Sequence[Any]]:
    """Newest first."""
    rows = await JobList(resources.database).read([status], limit)
    return {"items": [asdict(row) for row in rows]}


@router.post("/jobs/{job_id}/retry", status_code=204, response_class=Response)
async def retry_job(job_id: Number, resources: Provided) -> None:
    """Have it run again, with all its attempts."""
    if not await JobList(resources.database).retry([job_id]):
        raise NoFailedJob


@router.delete("/jobs/{job_id}", status_code=204, response_class=Response)
async def discard_job(job_id: Number, resources: Provided) -> None:
    if not await JobList(resources.database).discard([job_id]):
        raise NoFailedJob
