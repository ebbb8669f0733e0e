"""An object store that answers every request with an error."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from object_stores import KEY, SECRET


class FaultyStore:
    """`answer` is (status, code of S3); `requests` are those that came, such as `PUT /a`."""

    def __init__(self) -> None:
        self.answer = (500, "InternalError")
        self.requests: list[str] = []
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.close_connection = True
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    return
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                store.requests.append(f"{self.command} {self.path}")
                status, code = store.answer
                body = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>" if code else ""
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> "FaultyStore":
        threading.Thread(target=self.server.serve_forever, args=[0.05], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def variables(self) -> dict[str, str]:
        """Settings of the service for it."""
        return {
            "MEDIA_STORE_URL": "s3://uploads",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server.server_port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }
