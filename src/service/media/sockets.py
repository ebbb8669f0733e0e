"""The WebSocket of the media library, and what OpenAPI can say of it."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response
from starlette.websockets import WebSocket

from service.accounts.sessions import SocketAccount
from service.documented import answers, problems
from service.errors import ServiceError
from service.media.live import Live
from service.routing import readable
from service.texts import Matching

router = APIRouter(tags=["media"])

PATH = "/ws/media"
# As many digits as any revision has.
CURSOR = Matching("^[0-9]{1,18}$", "the cursor of an earlier message")
Cursor = Annotated[Annotated[str, CURSOR] | None, Query()]
UPGRADES = answers(101, optional={"Sec-WebSocket-Protocol": "`bearer`, where it was offered"})


class UpgradeNeeded(ServiceError):
    status = 426
    headers = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}

    def __init__(self) -> None:
        super().__init__("This is a WebSocket: a handshake (RFC 6455) opens it.")


@readable(
    router,
    PATH,
    status_code=101,
    response_class=Response,
    response_model=None,
    openapi_extra={"security": [{"bearer": []}]},
    responses=UPGRADES | problems(401, 422, 426, 429, 503),
)
async def explain_websocket(cursor: Cursor = None) -> Any:
    """A WebSocket that tells of own items as they change: `{"id", "status", "progress", "cursor"}`.

    `status` is also `deleted`, or `reset`, without an `id`, where the client has to list its items
    anew. Reconnect with the newest `cursor` and nothing is missed. The token comes in
    `Authorization`, or, from browsers, as `new WebSocket(url, ["bearer", token])`.
    """
    raise UpgradeNeeded


@router.websocket(PATH)
async def tell_of_changes(
    websocket: WebSocket, identity: SocketAccount, cursor: Cursor = None
) -> None:
    live: Live = websocket.state.live
    await live.serve(websocket, identity, None if cursor is None else int(cursor))
