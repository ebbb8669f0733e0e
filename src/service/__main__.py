"""The command line: worker, migrate, check, jobs, settings, static, health."""

import os
import sys

USAGE = """\
usage: service COMMAND [OPTION ...]

  worker                             run background jobs
  migrate                            bring the database schema up to date
  check [--deploy] [--connect]       validate the configuration; --deploy: as production would,
        [--format text|json]         --connect: reach every dependency as well
  jobs [--status STATUS ...]         failed jobs and why, or those that are todo or doing
       [--limit N]
       [--format text|json]
  jobs retry|discard ID ...          run failed jobs again, or remove them
  settings [--format text|json]      every setting, its value (secrets masked) and its source
  static FOLDER                      write the files that pages link to, for nginx
  health [live|ready|startup]        ask the running service; exit 0 or 1

  --version                          the release and the revision that it was built from

  --set NAME=VALUE                   a setting that wins over all other sources; any command
                                     but static and health; may be repeated

The web process is `gunicorn -c gunicorn_async_config.py`.
"""
COMMANDS = ("worker", "migrate", "check", "jobs", "settings", "static")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code (78 for a wrong configuration, 2 for wrong usage)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    # Imports wait for the command: the health client must not pay for the application.
    if command == "health":
        from service import healthcheck  # noqa: PLC0415

        return healthcheck.main(rest)
    if command in COMMANDS:
        from service import cli  # noqa: PLC0415

        return cli.run(command, rest)
    if command == "--version":
        from importlib.metadata import version  # noqa: PLC0415

        revision = os.environ.get("REVISION", "")
        print("service", version("service"), *([f"({revision})"] if revision else []))
        return 0
    asked = command in ("-h", "--help", "help")
    (sys.stdout if asked else sys.stderr).write(USAGE)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
