"""How often somebody may try: logins an account, mails an address and a network."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from service.limits import Limit
from service.resources import Resources
from service.settings import Settings

LOGIN_SECONDS = 30
KNOWN_NETWORK = "login-network"
KNOWN_SECONDS = 30 * 86_400
# A mail's link lives as long as the pause or longer, so that an address whose mails are used up by
# somebody else has a working link among them.
CONFIRMATION_MAILS = Limit("confirmation", at_once=3, every_seconds=20 * 60)
RESET_MAILS = Limit("reset", at_once=3, every_seconds=20 * 60)
NETWORK_MAIL_SECONDS = 3 * 60


def network(host: str) -> str:
    """Of whom a request is taken to be: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ip_network((address.packed, 64), strict=False))


async def _network(connection: HTTPConnection) -> str:
    return network(connection.client.host) if connection.client else ""


Network = Annotated[str, Depends(_network)]


def mailbox(address: str) -> str:
    """Where mail for an address is likely to end up: ada+news@example.org is most often ada's."""
    local, _, domain = address.rpartition("@")
    return f"{local.partition('+')[0] or local}@{domain}"


@asynccontextmanager
async def mail(
    resources: Resources, limit: Limit, address: str, network: str
) -> AsyncIterator[None]:
    """Count what the block has mailed: of who asked for it, and of who gets it.

    Raises LimitReached.
    """
    of_network = Limit("mails", resources.settings.mails_per_network, NETWORK_MAIL_SECONDS)
    # The network's first: who is beyond it uses up nobody's mails.
    async with (
        resources.limits.counted(of_network, network),
        resources.limits.counted(limit, mailbox(address)),
    ):
        yield


def logins(settings: Settings) -> Limit:
    """Failed ones, of an address with an account or without."""
    return Limit("login", settings.login_attempts, LOGIN_SECONDS)


def _there(address: str, network: str) -> str:
    return f"{address} {network}"


async def login_subject(resources: Resources, address: str, network: str) -> str:
    """For whom a login is counted: the address, whoever tries. Where its owner logged in from this
    network within a month it is the two together, so that strangers hold nobody off there."""
    there = _there(address, network)
    return there if await resources.limits.remembers(KNOWN_NETWORK, there) else address


async def login_succeeded(resources: Resources, subject: str, address: str, network: str) -> None:
    await resources.limits.forget(logins(resources.settings), subject)
    await resources.limits.remember(KNOWN_NETWORK, _there(address, network), KNOWN_SECONDS)


async def password_was_set(resources: Resources, address: str, network: str) -> None:
    for subject in (address, _there(address, network)):
        await resources.limits.forget(logins(resources.settings), subject)
