"""The WebSocket, over real connections and on both back ends."""

import pytest

from live import listening, serving, told, told_until
from service.settings import Settings

pytestmark = pytest.mark.anyio


async def test_it_tells_of_an_upload_and_of_its_processing(embedded_settings: Settings) -> None:
    async with serving(embedded_settings) as (api, port):
        bearer = await api.signed_in()
        async with listening(port, bearer) as socket:
            item = await api.upload(bearer)
            messages = await told_until(socket, item["id"], "ready")
    assert {message["id"] for message in messages} == {item["id"]}
    assert messages[-1]["progress"] == 100
    cursors = [int(message["cursor"]) for message in messages]
    assert cursors == sorted(set(cursors))
