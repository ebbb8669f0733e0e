"""`service jobs`: what failed and why, and what to do about it."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy.exc import DBAPIError

from service.database import open_database
from service.job_list import JobList, ListedJob
from service.settings import Settings

EX_USAGE = 2
EX_UNAVAILABLE = 69  # sysexits.h
EX_SOME_NOT_FAILED = 1
NOT_FAILED = "no failed job has this id; `service jobs` lists those that failed"


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Print jobs, or change those named; the exit code. Raises DatabaseUnavailable."""
    if mistake := _mistake(options):
        print(f"service jobs: {mistake}", file=sys.stderr)
        return EX_USAGE
    try:
        return asyncio.run(_run(settings, options))
    except DBAPIError as error:
        reason = type(error.orig).__name__
        print(f"the queue cannot be read ({reason}): run `service migrate`", file=sys.stderr)
    return EX_UNAVAILABLE


def _mistake(options: argparse.Namespace) -> str:
    if options.action == "list":
        return "expected no ids, which are for retry and discard" if options.ids else ""
    if not options.ids:
        return f"expected the ids of failed jobs to {options.action}; `service jobs` lists them"
    return ""


async def _run(settings: Settings, options: argparse.Namespace) -> int:
    async with open_database(settings) as database:
        jobs = JobList(database)
        if options.action == "list":
            statuses = options.status or ["failed"]
            rows = await jobs.read(statuses, options.limit)
            print(_as_json(rows) if options.format == "json" else _as_text(rows, statuses))
            return 0
        change = jobs.retry if options.action == "retry" else jobs.discard
        changed = await change(options.ids)
    done = {"retry": "will run again", "discard": "discarded"}[options.action]
    for number in options.ids:
        print(f"{number}: {done if number in changed else NOT_FAILED}")
    return 0 if changed >= set(options.ids) else EX_SOME_NOT_FAILED


def _as_json(rows: Sequence[ListedJob]) -> str:
    shown = [{**asdict(row), "at": row.at and row.at.isoformat()} for row in rows]
    return json.dumps(shown, indent=2)


def _as_text(rows: Sequence[ListedJob], statuses: Sequence[str]) -> str:
    if not rows:
        return f"no jobs that are {' or '.join(statuses)}"
    lines = []
    for row in rows:
        at = row.at.isoformat(sep=" ", timespec="seconds") if row.at else "at once"
        lines.append(f"{row.id}  {row.task}  {row.status}  {at}  attempts: {row.attempts}")
        lines.append(f"    {json.dumps(row.arguments)}")
        if row.reason:
            lines.append(f"    {' '.join(row.reason.split())}")
    return "\n".join(lines)
