"""Wiring: what `create_app` makes of settings."""

import pytest

from service.app import create_app
from service.settings import Settings

pytestmark = pytest.mark.anyio


def test_making_the_application_opens_nothing(embedded_settings: Settings) -> None:
    app = create_app(embedded_settings)
    assert not app.health.open
    assert not app.health.watches
