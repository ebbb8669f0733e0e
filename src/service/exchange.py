"""One request on its way through the layer around the application, or one WebSocket."""

import re
from collections.abc import Callable, Mapping

from starlette.types import Message, Receive, Send

from service import errors, logs
from service.turns import Place, Turns

WELL_FORMED_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
# RFC 6455 section 7.4.1, and the registry it founded.
INTERNAL_ERROR = 1011
NOTHING: Mapping[str, str] = {}
CUT_OFF = 1006  # never sent: what the server says of a connection that it dropped


class Exchange:
    """One request on its way through the layer: its id, its turn, and how far its answer got."""

    __slots__ = ("_id_header", "_send", "complete", "request_id", "status", "turns")
    answer = "http.response"

    def __init__(self, send: Send, given_id: bytes) -> None:
        if not given_id or not WELL_FORMED_ID.fullmatch(given_id):
            given_id = logs.new_id().encode()
        self._id_header = (b"x-request-id", given_id)
        self._send = send
        self.request_id = given_id.decode()
        self.status = 0
        self.complete = False
        self.turns: Turns | None = None  # where it has a turn

    async def take_turn(self, turns: Turns, place: Place) -> None:
        """It ends when the answer begins. Raises Busy."""
        await turns.wait(place)
        self.turns = turns

    def end_turn(self) -> None:
        """What is left takes its client's time: nothing more is computed."""
        if self.turns is not None:
            self.turns.give_back()
            self.turns = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], self._id_header]
            self.end_turn()
        elif not message.get("more_body"):
            self.complete = True
        await self._send(message)

    async def send_problem(
        self, status: int, detail: str | None = None, more: Mapping[str, str] = NOTHING
    ) -> None:
        """`more` are headers."""
        body = errors.problem_body(status, detail=detail, request_id=self.request_id)
        headers = [
            (b"content-type", errors.PROBLEM_JSON.encode()),
            (b"content-length", str(len(body)).encode()),
            *((name.lower().encode(), value.encode()) for name, value in more.items()),
        ]
        # No "Connection: close": the server drops what is left of the body as it comes, while
        # closing on a client that still sends would reset the connection before it reads this.
        start = {"type": f"{self.answer}.start", "status": status, "headers": headers}
        await self.send(start)
        await self.send({"type": f"{self.answer}.body", "body": body})


class SocketExchange(Exchange):
    """A WebSocket: refused with a problem or accepted, and why it ended.

    Needs a server with the extension "websocket.http.response".
    """

    __slots__ = ("_receive", "closed", "on_answer")
    answer = "websocket.http.response"

    def __init__(self, send: Send, receive: Receive, given_id: bytes) -> None:
        super().__init__(send, given_id)
        self._receive = receive
        self.on_answer: Callable[[int], None] = lambda status: None
        self.closed = ""

    @property
    def accepted(self) -> bool:
        return self.status == 101

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect" and not self.closed:
            dropped = message.get("code") == CUT_OFF and message.get("reason")
            self.closed = dropped or "client"
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._answer(message, 101)
        elif kind == "websocket.http.response.start" and not self.accepted:
            self._answer(message, message["status"])
        elif kind == "websocket.close" and not self.status:
            await self.send_problem(404)  # the router closes what no route is for
            return
        elif kind == "websocket.close":
            self.closed = self.closed or str(message.get("code", 1000))
        elif kind.startswith("websocket.http.response") and self.accepted:
            await self.fail()  # the answer to an error, which comes too late for one
            return
        await self._send(message)

    def _answer(self, message: Message, status: int) -> None:
        self.status = status
        self.end_turn()
        message["headers"] = [*message.get("headers", ()), self._id_header]
        self.on_answer(status)

    async def fail(self) -> None:
        """After an error that nobody expected."""
        if not self.status:
            await self.send_problem(500)
        elif self.accepted and not self.closed:
            await self.send({"type": "websocket.close", "code": INTERNAL_ERROR})
