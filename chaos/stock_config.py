"""Gunicorn as a tutorial configures it for Uvicorn; every other value is Gunicorn's default."""

import os

bind = os.environ["BIND"]
workers = int(os.environ["WEB_CONCURRENCY"])
worker_class = "uvicorn_worker.UvicornWorker"
wsgi_app = "service.app:create_app()"
pidfile = os.environ["PIDFILE"]
timeout = int(os.environ.get("WORKER_TIMEOUT_SECONDS", "30"))
max_requests = int(os.environ.get("MAX_REQUESTS", "0"))
max_requests_jitter = int(os.environ.get("MAX_REQUESTS_JITTER", "0"))
forwarded_allow_ips = "*"
control_socket_disable = True
