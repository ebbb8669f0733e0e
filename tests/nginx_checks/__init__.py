"""What has to hold of the nginx configuration, each as a function of a running site.

The tests run all of them; `test_nginx_lines.py` runs them again on configurations that lack a line,
where each has to fail.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from nginx import Site

Check = Callable[[Site], None]

OPEN = {"API_RATE": "100000r/s", "LOGIN_RATE": "100000r/s", "MEDIA_RATE": "100000r/s"}
# Each check is a client of its own, by the header of a load balancer that is believed.
LIMITED = {"TRUSTED_PROXIES": "127.0.0.1"}
PAIR = OPEN | {"UPSTREAM": "unix:/web.sock unix:/next.sock"}
BACKUP = OPEN | {"UPSTREAM_BACKUP": "unix:/next.sock", "UPSTREAM": "unix:/web.sock"}
FOREIGN = OPEN | {"INTERNAL_CLIENTS": "192.0.2.1"}

_clients = itertools.count(1)


def new_client() -> dict[str, str]:
    """The headers of a client that nobody has counted yet, on a LIMITED site."""
    number = next(_clients)
    return {"X-Forwarded-For": f"198.18.{number // 250}.{number % 250 + 1}"}


def new_path(prefix: str) -> str:
    """A path that nothing has asked for yet."""
    return f"{prefix}{next(_clients)}"
