"""The commands behind `service`, but for the health client."""

import argparse
import asyncio
import json
import logging.config
import os
import sys
from collections.abc import Callable
from pathlib import Path

from service import logs
from service.master import machine_problems
from service.settings import EX_CONFIG, ConfigurationError, Loaded, Settings, load, shown
from service.sources import Problem

EX_UNAVAILABLE = 69  # sysexits.h
EX_CANTCREAT = 73
EX_BROKEN_PIPE = 141  # what a shell says of a process that SIGPIPE ended


def run(command: str, arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        code = _run(command, arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # As `service settings | head` does. What Python would still flush at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EX_BROKEN_PIPE
    return code


def _run(command: str, arguments: list[str]) -> int:
    options = _parser(command).parse_args(arguments)
    if command == "static":  # at an image's build, where nothing is configured
        return _collect(options.folder)
    try:
        loaded = load(command_line=dict(options.set), deploy=getattr(options, "deploy", False))
    except ConfigurationError as error:
        return _refuse(error.problems, getattr(options, "format", "text"))
    if command == "settings":
        return _print_settings(loaded, options.format)
    logging.config.dictConfig(logs.configuration(loaded.settings))
    if command == "check":
        return _check(loaded, options)
    if command == "migrate":
        return _reaching_the_database(lambda: _migrate(loaded.settings))
    if command == "jobs":
        return _reaching_the_database(lambda: _jobs(loaded.settings, options))
    return _work(loaded.settings)


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"service {command}", allow_abbrev=False)
    if command == "static":
        parser.add_argument("folder", type=Path, metavar="FOLDER")
        return parser
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", type=_assignment
    )
    if command in ("check", "settings", "jobs"):
        parser.add_argument("--format", choices=("text", "json"), default="text")
    if command == "jobs":
        _add_job_options(parser)
    if command == "check":
        parser.add_argument("--deploy", action="store_true")
        parser.add_argument("--connect", action="store_true")
    return parser


def _assignment(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not name or not equals:
        # Without the text, which may be a secret on its way to the wrong place.
        raise argparse.ArgumentTypeError("expected NAME=VALUE")
    return name, value


def _refuse(problems: tuple[Problem, ...], form: str) -> int:
    """Print what is wrong: for people on stderr, for programs on stdout."""
    if form == "json":
        body = {"ok": False, "problems": [problem.as_dict() for problem in problems]}
        print(json.dumps(body, indent=2))
    else:
        print(ConfigurationError(problems), file=sys.stderr)
    return EX_CONFIG


def _check(loaded: Loaded, options: argparse.Namespace) -> int:
    problems = [*machine_problems(loaded)]
    if options.connect:
        from service.check import connect  # noqa: PLC0415  (drivers only this option needs)

        problems += asyncio.run(connect(loaded.settings))
    if problems:
        return _refuse(tuple(problems), options.format)
    if options.format == "json":
        print(json.dumps({"ok": True, "problems": []}, indent=2))
    else:
        print("configuration: ok")
    return 0


def _print_settings(loaded: Loaded, form: str) -> int:
    rows = [
        (
            name.upper(),
            shown(getattr(loaded.settings, name)),
            loaded.origins.get(name.upper(), "default"),
        )
        for name in Settings.model_fields
    ]
    if form == "json":
        print(
            json.dumps(
                [dict(zip(("variable", "value", "source"), row, strict=True)) for row in rows],
                indent=2,
            )
        )
        return 0
    width = max(len(name) for name, _, _ in rows)
    for name, value, source in rows:
        print(f"{name:<{width}}  {value or '(empty)'}  [{source}]")
    return 0


def _collect(folder: Path) -> int:
    from service import static  # noqa: PLC0415  (the web framework)

    try:
        written = static.collect(folder)
    except OSError as error:
        print(f"{folder}: the files cannot be written ({error.strerror})", file=sys.stderr)
        return EX_CANTCREAT
    print(f"static: {written} files in {folder}")
    return 0


def _reaching_the_database(act: Callable[[], int]) -> int:
    """The exit code of `act`, or a word where the database is away."""
    from service.database_errors import DatabaseUnavailable, root  # noqa: PLC0415  (drivers)

    try:
        return act()
    except DatabaseUnavailable as error:
        reason = type(root(error)).__name__
        print(f"DATABASE_URL: the database cannot be reached ({reason})", file=sys.stderr)
    return EX_UNAVAILABLE


def _migrate(settings: Settings) -> int:
    from service.migrate import migrate, newer  # noqa: PLC0415  (drivers)

    before, after = asyncio.run(migrate(settings))
    change = "already" if before == after else f"was {before or 'empty'}"
    print(f"schema: {after} ({'of a newer release' if newer(after) else change})")
    return 0


def _add_job_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=("list", "retry", "discard"), default="list")
    parser.add_argument("ids", nargs="*", type=int, metavar="ID")
    parser.add_argument("--status", action="append", choices=("failed", "doing", "todo"))
    parser.add_argument("--limit", type=int, default=100)


def _jobs(settings: Settings, options: argparse.Namespace) -> int:
    from service import jobs_command  # noqa: PLC0415  (drivers)

    return jobs_command.run(settings, options)


def _work(settings: Settings) -> int:
    if settings.embedded:
        print("embedded: jobs run in the web process; a worker needs PostgreSQL", file=sys.stderr)
        return EX_CONFIG
    from service import worker  # noqa: PLC0415

    asyncio.run(worker.run(settings))
    return 0
