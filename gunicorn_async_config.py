"""Gunicorn's configuration: its names, and values from the service's settings.

    gunicorn -c gunicorn_async_config.py

Everything is validated here, in the master, before a socket is bound: a mistake is one message and
exit code 78. A reload (SIGHUP) with a wrong configuration is refused and the old one stays.
"""

import gc
import os
import sys
from typing import Any

from service import logs, metric_files, system
from service.settings import EX_CONFIG, ConfigurationError, load

# Survives a reload: Gunicorn runs this file again in the same process.
_kept: dict[str, Any] = sys.modules["service"].__dict__.setdefault("_gunicorn", {})

try:
    settings = _kept["settings"] = load().settings
except ConfigurationError as error:
    if "settings" not in _kept:
        print(error, file=sys.stderr)
        raise SystemExit(EX_CONFIG) from None
    print(f"reload refused, the former configuration stays: {error}", file=sys.stderr)
    settings = _kept["settings"]

on_unix_socket = settings.bind.startswith("unix:")
tmp_dir = settings.worker_tmp_dir if os.access(settings.worker_tmp_dir, os.W_OK) else None
metric_files.prepare_directory(tmp_dir)

bind = settings.bind
backlog = settings.backlog
workers = system.web_workers(settings)
worker_class = "service.lifecycle.DrainingWorker"
worker_connections = settings.worker_connections
timeout = settings.worker_timeout_seconds
graceful_timeout = settings.shutdown_grace_seconds
keepalive = settings.keepalive_seconds
max_requests = settings.max_requests
max_requests_jitter = settings.max_requests_jitter
# A Unix socket's peer has no address, so only "*" works there; nginx must overwrite the header.
forwarded_allow_ips = "*" if on_unix_socket else ",".join(settings.forwarded_allow_ips)
proc_name = settings.proc_name
pidfile = settings.pidfile or None
worker_tmp_dir = tmp_dir
user = settings.run_as_user or None
group = settings.run_as_group or None
certfile = settings.certfile or None
keyfile = settings.keyfile or None
preload_app = True
wsgi_app = "service.app:create_app()"
control_socket_disable = True  # on by default, in $HOME
logconfig_dict = logs.configuration(settings)
accesslog = None  # written by the app or by nginx
loglevel = settings.log_level


def pre_fork(server: Any, worker: Any) -> None:
    """Move what is preloaded out of the collector's sight, so that workers go on sharing it."""
    from service import metrics  # after prepare_directory()

    metrics.leave_out_master()
    gc.collect()
    gc.freeze()


def post_worker_init(worker: Any) -> None:
    """A stack dump on the SIGABRT that ends a blocked worker."""
    import faulthandler

    faulthandler.enable()


def child_exit(server: Any, worker: Any) -> None:
    """Count the end of a worker and fold its metric files away."""
    try:
        from service import metrics  # after prepare_directory()

        metrics.worker_ended(worker.pid, timed_out=worker.aborted)
    except Exception:  # it would end the master
        server.log.exception("child_exit_failed")


def on_reload(server: Any) -> None:
    """Build the application anew, in the master, so that new workers have the new settings."""
    server.app.callable = None
    server.app.wsgi()


def on_exit(server: Any) -> None:
    metric_files.remove_directory()
