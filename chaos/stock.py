"""The rival: a stock Uvicorn worker under Gunicorn's defaults, behind the nginx of a tutorial."""

from pathlib import Path

from chaos.stack import Kind
from nginx import Nginx
from servers import make_certificate

CONFIG = Path(__file__).with_name("stock_config.py")
NGINX = """
worker_processes 2;
pid {pid};
error_log {logs}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log {logs}/access.log;
    client_body_temp_path {cache}/body;
    proxy_temp_path {cache}/proxy;
    fastcgi_temp_path {cache}/fastcgi;
    uwsgi_temp_path {cache}/uwsgi;
    scgi_temp_path {cache}/scgi;
    keepalive_timeout 65;
    client_max_body_size 20m;
    upstream app {{
        least_conn;
        {servers}
        keepalive 32;
    }}
    server {{
        listen {port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
    server {{
        listen {internal};
        location = /nginx-health {{ return 200; }}
    }}
}}
"""


class TutorialNginx(Nginx):
    """With a configuration as tutorials have it: upstream keep-alive, and nginx's own defaults for
    what happens when an upstream fails."""

    @property
    def _rendering(self) -> str:
        return "true"

    def _prepare(self) -> None:
        super()._prepare()
        certificate, key = make_certificate(self.folder("tls"))
        certificate.rename(self.certificate)
        key.chmod(0o644)
        upstreams = self.variables()["UPSTREAM"].split()
        text = NGINX.format(
            pid=self.variables()["PID_FILE"],
            logs=self.folder("logs"),
            cache=self.folder("cache"),
            servers=" ".join(f"server {name} max_fails=3 fail_timeout=30s;" for name in upstreams),
            port=self.port,
            certificate=self.certificate,
            key=key,
            internal=self.internal_port,
        )
        self.config.write_text(text)


KIND = Kind(CONFIG, TutorialNginx, {"X_ACCEL_REDIRECT": "false"})
