"""Wiring: what `create_app` makes of settings."""

import logging

import pytest

from asgi import lifespan
from service.app import create_app
from service.settings import Settings

pytestmark = pytest.mark.anyio


async def test_tracing_that_is_asked_for_and_not_built_is_said_so(
    embedded_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    values = {"otel_exporter_otlp_endpoint": "http://127.0.0.1:4318"}
    settings = Settings(**(embedded_settings.model_dump() | values))
    with caplog.at_level(logging.WARNING, logger="service.app"):
        async with lifespan(create_app(settings)):
            pass
    assert [record.message for record in caplog.records if record.name == "service.app"] == [
        "tracing_is_not_built"
    ]


def test_making_the_application_opens_nothing(embedded_settings: Settings) -> None:
    app = create_app(embedded_settings)
    assert not app.health.open
    assert not app.health.watches
