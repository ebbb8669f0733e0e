"""A name server that knows one name, whose addresses can change."""

from __future__ import annotations

import socket
import struct
import threading

A_RECORD = 1


class NameServer:
    """Answers on a UDP port of the loopback interface; without addresses, that there is no such
    name."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(512)
            if not query:
                return
            self.asked += 1
            self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        """RFC 1035 section 4: the question again, and where it has one, its answer."""
        end = query.index(b"\0", 12) + 5
        question = query[12:end]
        [kind] = struct.unpack(">H", question[-4:-2])
        records = [self._record(address) for address in self.addresses if kind == A_RECORD]
        flags = 0x8180 if self.addresses else 0x8183
        head = query[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0)
        return head + question + b"".join(records)

    def _record(self, address: str) -> bytes:
        """0xC00C is the name in the question."""
        return struct.pack(">HHHIH", 0xC00C, A_RECORD, 1, 0, 4) + socket.inet_aton(address)
