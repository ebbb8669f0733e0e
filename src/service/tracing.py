"""Traces by OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT says that there is somebody to send
them to. Without it nothing of its SDK is imported, and a span costs a comparison.

A request's span continues that of a client's or nginx's `traceparent`; below it are those of its
statements, of the jobs that it left and of their mails. None has values of statements, addresses,
queries of URLs or words of errors.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate, trace  # the interface, which FastAPI imports in any case

from service import logs
from service.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

log = logging.getLogger(__name__)

SEND_SECONDS = 2.0  # to the collector, of a batch
END_SECONDS = 3.0  # for what is left at the end: a collector that is away holds up no stop
NOTHING = nullcontext()
TRACEPARENT = "traceparent"  # the name of W3C's header, and of a job's argument

_tracer: trace.Tracer | None = None


def make_provider(settings: Settings) -> TracerProvider | None:
    """What makes spans, without a thread: it may be made before the fork. None where there is
    nobody to send them to. OpenTelemetry's own variables, such as OTEL_TRACES_SAMPLER, count."""
    if not settings.otel_exporter_otlp_endpoint.get_secret_value():
        return None
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

    about = {"service.name": "service", "service.version": version("service")}
    return TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)


@contextmanager
def exporting(provider: TracerProvider | None, settings: Settings) -> Iterator[None]:
    """Make spans and send them in the background, for as long as a block lasts; in each process
    after the fork, as it starts a thread."""
    global _tracer  # noqa: PLW0603
    if provider is None:
        yield
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult  # noqa: PLC0415

    class Exporter(OTLPSpanExporter):
        """Says once an outage that it cannot send, where the library would for each batch."""

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = super().export(spans)
            if result is not SpanExportResult.SUCCESS:
                log.warning("traces_not_sent", extra={"spans": len(spans), "seldom": ""})
            return result

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    endpoint = settings.otel_exporter_otlp_endpoint.get_secret_value().rstrip("/")
    exporter = Exporter(endpoint=f"{endpoint}/v1/traces", timeout=SEND_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("service")
    try:
        yield
    finally:
        _tracer = None
        ending = threading.Thread(target=provider.shutdown, daemon=True)
        ending.start()
        ending.join(END_SECONDS)


def request(
    method: str, path: str, headers: Mapping[bytes, bytes]
) -> AbstractContextManager[object]:
    """Around a request; named once it is `answered`."""
    if _tracer is None:
        return NOTHING
    carrier = {
        name: headers[name.encode()].decode("latin-1")
        for name in (TRACEPARENT, "tracestate")
        if name.encode() in headers
    }
    return _span(
        method,
        trace.SpanKind.SERVER,
        {"url.path": path, "request_id": logs.request_id.get()},
        propagate.extract(carrier),
    )


def answered(method: str, route: str, status: int) -> None:
    """What a request was, by its route's template, and what became of it."""
    if _tracer is None:
        return
    span = trace.get_current_span()
    span.update_name(f"{method} {route}")
    span.set_attributes(
        {"http.request.method": method, "http.route": route, "http.response.status_code": status}
    )
    if status >= 500:
        span.set_status(trace.StatusCode.ERROR)


def query(text: str) -> AbstractContextManager[object]:
    """Around a statement, which has placeholders for its values. Only as a part of something: what
    the service asks by itself, every few seconds, is no trace."""
    if _tracer is None or not trace.get_current_span().get_span_context().is_valid:
        return NOTHING
    about = {"db.system.name": "postgresql", "db.query.text": text}
    return _span(text.split(None, 1)[0], trace.SpanKind.CLIENT, about)


def mail(host: str, port: int) -> AbstractContextManager[object]:
    """Around the conversation with a mail server."""
    if _tracer is None:
        return NOTHING
    return _span("SMTP", trace.SpanKind.CLIENT, {"server.address": host, "server.port": port})


def job(task: str, arguments: Mapping[str, Any], attempt: int) -> AbstractContextManager[object]:
    """Around a run of a job, as a part of what made it."""
    if _tracer is None:
        return NOTHING
    carrier = {TRACEPARENT: str(arguments.get(TRACEPARENT, ""))}
    context = propagate.extract(carrier)
    return _span(task, trace.SpanKind.CONSUMER, {"attempt": attempt}, context)


def carried() -> dict[str, str]:
    """What a job has to carry to be a part of this trace."""
    if _tracer is None:
        return {}
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return {name: value for name, value in carrier.items() if name == TRACEPARENT}


def failed(error: BaseException) -> None:
    """What was caught counts as this span's failure. Its words may be anybody's."""
    if _tracer is None:
        return
    span = trace.get_current_span()
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(trace.StatusCode.ERROR)


@contextmanager
def _span(
    name: str,
    kind: trace.SpanKind,
    attributes: Mapping[str, str | int],
    context: Context | None = None,
) -> Iterator[None]:
    """The SDK would add an error's words to it, in an event and in its status."""
    assert _tracer is not None
    with _tracer.start_as_current_span(
        name,
        context,
        kind,
        attributes,
        record_exception=False,
        set_status_on_exception=False,
    ):
        try:
            yield
        except Exception as error:
            failed(error)
            raise
