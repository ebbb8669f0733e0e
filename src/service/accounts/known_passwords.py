"""Passwords that are guessed first, and so nobody's: NIST SP 800-63B 5.1.1.2 has them refused.

They are of 8 characters and more, in lower case, a few thousand: many guesses of one account are
held off, and one guess each of many accounts takes the commonest.
"""

import unicodedata
from functools import cache
from pathlib import Path

OWN_ADDRESS = "expected another one than the account's address"
LIST = Path(__file__).with_suffix(".txt")


@cache
def _listed() -> frozenset[str]:
    return frozenset(LIST.read_text("utf-8").splitlines())


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold().strip()


def is_known(password: str) -> bool:
    return _folded(password) in _listed()


def is_of_address(password: str, email: str) -> bool:
    """Whether it is the address, or what stands before its @."""
    local = email.rpartition("@")[0]
    return bool(local) and _folded(password) in (_folded(email), _folded(local))
