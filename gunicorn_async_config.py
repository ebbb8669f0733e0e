"""Gunicorn's configuration: its names, and values from the service's settings.

    gunicorn -c gunicorn_async_config.py

Everything is validated here, in the master, before a socket is bound: a mistake is one message and
exit code 78. A reload (SIGHUP) with a wrong configuration is refused and the workers stay.
"""

import gc
import logging
import os
import tempfile
from typing import Any

from service import logs, master, metric_files, system

# With thousands of connections there is much to look through, and Python looks through all of it
# after every 70,000 new objects: in an overload that took a seventh of a worker's time.
GC_THRESHOLDS = (20_000, 20, 20)

settings = master.settings_or_exit()
master.open_as_many_files_as_allowed()

run_uid, run_gid = master.user_id(settings), master.group_id(settings)
in_memory = os.access(settings.worker_tmp_dir, os.W_OK)
worker_tmp_dir = settings.worker_tmp_dir if in_memory else tempfile.gettempdir()
metric_files.prepare_directory(worker_tmp_dir, run_uid, run_gid)
logging.captureWarnings(True)

bind = [settings.bind, *([settings.peer_bind] if settings.peer_bind else [])]
umask = 0o777 & ~int(settings.bind_mode, 8)  # of a Unix socket alone, and of nothing else
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
forwarded_allow_ips = "*" if settings.on_unix_socket else ",".join(settings.forwarded_allow_ips)
proc_name = settings.proc_name
pidfile = settings.pidfile or None
user = run_uid
group = run_gid
certfile = settings.certfile or None
keyfile = settings.keyfile or None
preload_app = True
wsgi_app = "service.app:create_app()"
control_socket_disable = True  # on by default, in $HOME
logconfig_dict = logs.configuration(settings)
errorlog = "-"
accesslog = None  # written by the app or by nginx
loglevel = settings.log_level


def on_starting(server: Any) -> None:
    """A reload happens as a whole or not at all, a failed start ends with its own code, workers
    know whether others go on for them, and while they drain they can be reached."""
    master.guard_halt(server)
    master.tell_replaced(server)
    master.keep_socket_path(server)
    master.guard_reload(server, settings)


def pre_fork(server: Any, worker: Any) -> None:
    """Move what is preloaded out of the collector's sight, so that workers go on sharing it."""
    from service import metrics  # after prepare_directory()

    metrics.leave_out_master()
    if server.cfg.preload_app and hasattr(app := server.app.wsgi(), "warm_up"):
        app.warm_up()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def post_fork(server: Any, worker: Any) -> None:
    """Leave root's groups, while that is still allowed."""
    master.leave_groups(run_uid, run_gid)


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
