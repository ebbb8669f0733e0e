"""What the Gunicorn master does besides Gunicorn: it looks whether it can serve with these settings
before it binds a socket, and refuses a reload with which it cannot.

Nothing here may import `service.metrics`: the directory for metric files is made first.
"""

import gc
import grp
import mmap
import os
import pwd
import resource
import ssl
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from gunicorn.errors import HaltServer

from service.settings import EX_CONFIG, ConfigurationError, Loaded, Settings, load
from service.sources import Problem

LONGEST_SOCKET_PATH = 107  # unix(7), in bytes
UNREACHABLE_SECONDS = 1.0  # before workers stop accepting: what has connected by then is served


def load_checked() -> Loaded:
    """The configuration, valid in itself and on this machine. Raises ConfigurationError."""
    loaded = load()
    if problems := list(machine_problems(loaded)):
        raise ConfigurationError(problems)
    return loaded


def settings_or_exit() -> Settings:
    """The settings; where they are wrong, a report on stderr and the end with exit code 78."""
    try:
        return load_checked().settings
    except ConfigurationError as error:
        print(error, file=sys.stderr)
    raise SystemExit(EX_CONFIG)


def open_as_many_files_as_allowed() -> None:
    """Raise the soft limit, often 1024, to the hard one: every connection is a file."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def user_id(settings: Settings) -> int:
    """The user workers run as. Raises KeyError for a name this machine does not know."""
    name = settings.run_as_user
    return _number(name, lambda: pwd.getpwnam(name).pw_uid) if name else os.geteuid()


def group_id(settings: Settings) -> int:
    """The group workers run as; if none is set, the user's own. Raises KeyError for a name this
    machine does not know, and for a user by number of whom it knows no group."""
    if name := settings.run_as_group:
        return _number(name, lambda: grp.getgrnam(name).gr_gid)
    user = user_id(settings)
    return os.getegid() if user == os.geteuid() else pwd.getpwuid(user).pw_gid


def _number(name: str, find: Callable[[], int]) -> int:
    return int(name) if name.isdecimal() else find()


def leave_groups(user: int, group: int) -> None:
    """In a worker that is to become this user: it keeps none of the groups that root is in.

    Gunicorn's own `initgroups` would leave it root's primary group, which it otherwise changes.
    """
    if user == os.geteuid():
        return
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        os.setgroups([])
    else:
        os.initgroups(name, group)


def machine_problems(loaded: Loaded) -> Iterator[Problem]:
    """What is right in itself, and wrong on this machine for the user who asks."""
    checks: dict[str, tuple[Callable[[Settings], str], str]] = {
        "RUN_AS_USER": (_user, "a user of this machine, and a master that may change to it"),
        "RUN_AS_GROUP": (_group, "a group of this machine, and a master that may change to it"),
        "BIND": (_socket_path, "a path where this user can make a socket"),
        "PIDFILE": (_pidfile, "a path in a directory where this user can write"),
        "CERTFILE": (_certificate, "readable PEM files of a certificate and of its key"),
    }
    for variable, (given, expected) in checks.items():
        if wrong := given(loaded.settings):
            source = loaded.origins.get(variable, "default")
            yield Problem(variable, source, expected, wrong)


def _user(settings: Settings) -> str:
    return _identity(lambda: user_id(settings), os.geteuid())


def _group(settings: Settings) -> str:
    if settings.run_as_group or not _user(settings):
        return _identity(lambda: group_id(settings), os.getegid())
    return ""  # the user's own, and of that user it is said what is wrong


def _identity(wanted: Callable[[], int], own: int) -> str:
    try:
        allowed = wanted() == own or os.geteuid() == 0
    except KeyError:
        return "one that is not known here"
    return "" if allowed else "another one, and a master that is not root"


def _socket_path(settings: Settings) -> str:
    if not settings.on_unix_socket:
        return ""
    path = settings.bind.removeprefix("unix:")
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        return "a path that is too long for a socket"
    if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
        return "a path where something else is"
    return _unwritable(path)


def _pidfile(settings: Settings) -> str:
    return _unwritable(settings.pidfile) if settings.pidfile else ""


def _unwritable(path: str) -> str:
    parent = os.path.dirname(path) or "."
    return "" if os.access(parent, os.W_OK | os.X_OK) else "a directory that cannot be written"


def _certificate(settings: Settings) -> str:
    if not settings.certfile:
        return ""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password OpenSSL would ask at the terminal.
        context.load_cert_chain(settings.certfile, settings.keyfile, password="")
    except ssl.SSLError:
        return "files that do not hold them, or do not belong together"
    except OSError as error:
        return f"files that cannot be read ({error.strerror})"
    return ""


class Replaced:
    """Up to which age workers are replaced, as Gunicorn numbers them, in memory that the master
    shares with them: one that is told to stop can tell whether the service goes on without it."""

    def __init__(self) -> None:
        # Shared with children, and with nobody else.
        self._age = memoryview(mmap.mmap(-1, 8)).cast("Q")

    @property
    def up_to(self) -> int:
        return self._age[0]

    @up_to.setter
    def up_to(self, age: int) -> None:
        self._age[0] = age


replaced = Replaced()  # before any fork, or the workers would not see it


class ReloadRefused(Exception):
    """The new configuration or application cannot be had; everything stays as it was."""


def guard_halt(server: Any) -> None:
    """Make Gunicorn end with the code it means. Where a second worker fails to start while the
    first one's failure is ending the service, it raises again, and the code would be 1."""
    halt, reap_workers = server.halt, server.reap_workers

    def reap_all() -> None:
        with suppress(HaltServer):
            reap_workers()

    def halt_once(reason: str | None = None, exit_status: int = 0) -> None:
        server.reap_workers = reap_all
        halt(reason=reason, exit_status=exit_status)

    server.halt = halt_once


def tell_replaced(server: Any) -> None:
    """Let workers know where others go on in their place, on the same socket, so that readiness
    must not fail there: those of a second master (USR2), or, where there are too many workers
    (TTOU), the younger ones. At a stop that is one, nobody goes on."""
    stop, manage_workers = server.stop, server.manage_workers

    def tell_and_stop(graceful: bool = True) -> None:
        first_lives = server.master_pid and server.master_pid == os.getppid()
        replaced.up_to = server.worker_age if server.reexec_pid or first_lives else 0
        stop(graceful)

    def tell_and_manage() -> None:
        ages = sorted(worker.age for worker in server.WORKERS.values())
        if (surplus := len(ages) - server.num_workers) > 0:
            replaced.up_to = ages[surplus - 1]
        manage_workers()

    server.stop, server.manage_workers = tell_and_stop, tell_and_manage


def keep_socket_path(server: Any) -> None:
    """Make the path of a Unix socket outlast SIGTERM for as long as the workers drain: Gunicorn
    removes it at once, and a proxy that has no other would have nothing to connect to. It goes a
    little before they stop accepting, so that nobody is left waiting in the queue.

    Not where another master has taken the socket over, or has bound one at this path since.
    """
    stop = server.stop

    def stop_after_the_drain(graceful: bool = True) -> None:
        names = [listener.getsockname() for listener in server.LISTENERS]
        paths = [Path(name) for name in names if isinstance(name, str) and os.path.exists(name)]
        if not graceful or not paths or server.reexec_pid or server.master_pid:
            stop(graceful)
            return
        ours = {path: path.stat().st_ino for path in paths}

        def remove() -> None:
            for path, number in ours.items():
                with suppress(FileNotFoundError):
                    if path.stat().st_ino == number:
                        path.unlink()

        drain_seconds = server.app.wsgi().settings.shutdown_drain_seconds  # of the last reload
        timer = threading.Timer(max(0.0, drain_seconds - UNREACHABLE_SECONDS), remove)
        timer.daemon = True
        timer.start()
        server.systemd = True  # then Gunicorn leaves the path alone, as somebody else's
        try:
            stop(graceful)
        finally:
            timer.cancel()
            remove()

    server.stop = stop_after_the_drain


def guard_reload(server: Any, former_settings: Settings) -> None:
    """Make SIGHUP all or nothing, as Gunicorn ends where it cannot load its configuration anew,
    and leaves its workers orphaned. The application is built anew as well, before the old workers
    are told to stop: it is preloaded, and so would keep the old settings. Addresses cannot change,
    as there would be nothing to go back to where the new one cannot be had.
    """
    reload, reload_configuration = server.reload, server.app.reload

    def reload_all() -> None:
        former = server.app.cfg, server.app.callable
        gc.unfreeze()  # what the former application leaves behind can be collected again
        try:
            reload_configuration()
            server.app.callable = server.app.load()
        except (Exception, SystemExit) as error:
            server.app.cfg, server.app.callable = former
            raise ReloadRefused from error
        replaced.up_to = server.worker_age

    def reload_or_stay() -> None:
        try:
            loaded = load_checked()
            if moved := list(_moved(former_settings, loaded)):
                raise ConfigurationError(moved)
            reload()
        except ConfigurationError as error:
            problems = [str(problem) for problem in error.problems]
            server.log.error("reload_refused", extra={"problems": problems})
        except ReloadRefused as error:
            server.log.error("reload_refused", exc_info=error.__cause__)

    server.app.reload = reload_all
    server.reload = reload_or_stay


def _moved(former: Settings, loaded: Loaded) -> Iterator[Problem]:
    for name in ("bind", "peer_bind"):
        if getattr(former, name) != getattr(loaded.settings, name):
            source = loaded.origins.get(name.upper(), "default")
            yield Problem(name.upper(), source, "the address of the start", "another one")
