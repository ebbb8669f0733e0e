"""Mail addresses in one form each, so that one person has one account."""

import re
import unicodedata

import idna

MAX_CHARACTERS = 320
MAX_BYTES = 254  # RFC 5321 section 4.5.3.1.3 with erratum 1690
MAX_LOCAL_BYTES = 64  # RFC 5321 section 4.5.3.1.1
# RFC 5322's dot-atom; beyond ASCII RFC 6531 allows everything, here what can be printed.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
_LOCAL = re.compile(rf"{_ATOM}(\.{_ATOM})*")


def normalise(text: str) -> str:
    """The one form of a mail address: lower case, composed Unicode, its domain as DNS has it.

    Only a mail that arrives proves an address; this raises ValueError for what cannot be one.
    """
    text = text.strip()
    local, at, domain = text.rpartition("@")
    if not at or len(text) > MAX_CHARACTERS:
        raise ValueError("expected a mail address such as ada@example.org")
    address = f"{_normalise_local(local)}@{_normalise_domain(domain)}"
    if len(address.encode()) > MAX_BYTES:
        raise ValueError("a mail address has at most 254 bytes")
    return address


def _normalise_local(local: str) -> str:
    local = unicodedata.normalize("NFC", unicodedata.normalize("NFC", local).lower())
    # A mail client takes "=?" for the start of an encoded word, which may hide another address.
    if not _LOCAL.fullmatch(local) or not local.isprintable() or "=?" in local:
        raise ValueError("expected a mail address such as ada@example.org")
    if len(local.encode()) > MAX_LOCAL_BYTES:
        raise ValueError("the part of a mail address before its @ has at most 64 bytes")
    return local


def _normalise_domain(domain: str) -> str:
    try:
        name = idna.encode(domain, uts46=True).decode()
    except UnicodeError:  # idna.IDNAError is one
        raise ValueError("expected a mail address such as ada@example.org") from None
    *names, top = name.split(".")
    if not names or not top or top.isdigit():
        raise ValueError("expected a mail address such as ada@example.org")
    return name
