"""Fixtures of the media library's tests."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from api import Api, running_api
from service.settings import Settings
from sockets import serving


@pytest.fixture
def quiet_settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Nothing is processed until a test does it."""
    monkeypatch.setattr("service.embedded.Runner._claim", _nothing)
    return settings


@pytest.fixture
async def quiet(quiet_settings: Settings) -> AsyncIterator[Api]:
    """The application where nothing is processed until a test does it."""
    async with running_api(quiet_settings) as api:
        yield api


@pytest.fixture
async def live(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Api, int]]:
    """The application on a port, where nothing is processed until a test does it."""
    monkeypatch.setattr("service.embedded.Runner._claim", _nothing)
    async with serving(settings) as running:
        yield running


async def _nothing(_: Any) -> None:
    return None
