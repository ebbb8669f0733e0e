"""A stand-in for an OpenTelemetry collector: it takes OTLP over HTTP, and keeps the spans."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from servers import free_port


@dataclass(frozen=True)
class Span:
    trace_id: str
    id: str
    parent_id: str
    name: str
    attributes: dict[str, str]
    failed: bool
    words: str  # of its status and its events


class Collector:
    """`status` is what it answers."""

    def __init__(self) -> None:
        self.port = free_port()
        self.spans: list[Span] = []
        self.asked = 0
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self, path: str, body: bytes) -> int:
        self.asked += 1
        if path != "/v1/traces":
            return 404
        if self.status == 200:
            self.spans += _spans(ExportTraceServiceRequest.FromString(body))
        return self.status

    def trace(self, trace_id: str) -> list[Span]:
        return [span for span in self.spans if span.trace_id == trace_id]


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.name,
                    {a.key: a.value.string_value or str(a.value) for a in span.attributes},
                    span.status.code == span.status.STATUS_CODE_ERROR,
                    span.status.message + "".join(map(str, span.events)),
                )


@contextmanager
def running_collector() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            self.send_response(collector.take(self.path, body))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", collector.port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
