import contextlib
import gc
import socket
import threading
import time

import pytest

from echo import Echo
from servers import free_port


@pytest.mark.parametrize("milliseconds", [1, 2, 4, 8])
def test_an_upstream_that_ends_while_clients_connect_leaves_nothing_open(milliseconds: int) -> None:
    """What it left would be the failure of another test (`filterwarnings = error`)."""
    port = free_port()
    connections: list[socket.socket] = []
    for _ in range(5):
        with Echo(("127.0.0.1", port)):
            crowd = threading.Thread(target=connect, args=(port, connections))
            crowd.start()
            time.sleep(milliseconds / 1000)
        crowd.join(10)
    assert connections
    for connection in connections:
        connection.close()
    gc.collect()


def connect(port: int, connections: list[socket.socket]) -> None:
    """Until nobody listens."""
    with contextlib.suppress(OSError):
        for _ in range(150):
            connection = socket.create_connection(("127.0.0.1", port), 1)
            connections.append(connection)
