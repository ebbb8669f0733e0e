"""One form of each mail address, and nothing that could be mistaken for another one."""

from email.policy import SMTP

import pytest
from aiosmtplib.email import extract_recipients

from service.accounts.addresses import normalise
from service.mail import Mailer
from service.settings import Settings

ACCEPTED = {
    "ada@example.org": "ada@example.org",
    "  ada@example.org\n": "ada@example.org",
    "\u00a0ada@example.org\u2003": "ada@example.org",
    "Ada.Lovelace@Example.ORG": "ada.lovelace@example.org",
    "ada+tag@example.org": "ada+tag@example.org",
    "o'brien@example.org": "o'brien@example.org",
    "!#$%&'*+/?=^_`{|}~-@example.org": "!#$%&'*+/?=^_`{|}~-@example.org",
    "1@2.example": "1@2.example",
    "ada@a-b.c-d.example": "ada@a-b.c-d.example",
    # Unicode: composed, lower case; a Kelvin sign is a K
    "jose\u0301@example.org": "jos\u00e9@example.org",
    "JOS\u00c9@example.org": "jos\u00e9@example.org",
    "\u212aim@example.org": "kim@example.org",
    "用户@example.org": "用户@example.org",
    # the domain as DNS has it (IDNA 2008)
    "ada@B\u00dcCHER.example": "ada@xn--bcher-kva.example",
    "ada@bu\u0308cher.example": "ada@xn--bcher-kva.example",
    "ada@xn--bcher-kva.example": "ada@xn--bcher-kva.example",
    "ada@XN--BCHER-KVA.example": "ada@xn--bcher-kva.example",
    "ada@stra\u00dfe.example": "ada@xn--strae-oqa.example",
    "ada@example\u3002org": "ada@example.org",
    "ada@\uff45xample.org": "ada@example.org",
    # as long as can be
    "a" * 64 + "@example.org": "a" * 64 + "@example.org",
    "a@" + ".".join(["b" * 62] * 4): "a@" + ".".join(["b" * 62] * 4),
}
REFUSED = [
    "",
    " ",
    "@",
    "ada",
    "ada@",
    "@example.org",
    "ada@localhost",
    "ada@@example.org",
    "ada@b@example.org",
    "ada lovelace@example.org",
    "ada@exa mple.org",
    "ada\n@example.org",
    "ada@example.org\r\nBcc: eve@example.org",
    "ada\r\nBcc:eve@example.org",
    "ada\x00@example.org",
    "ada@exam\x00ple.org",
    "ada\x7f@example.org",
    "ada\x1b[2J@example.org",
    "ada\u200b@example.org",
    "ada\u202e@example.org",
    "ada\u00a0b@example.org",
    "ada\ud800@example.org",
    "ada@\ud800.org",
    ".ada@example.org",
    "ada.@example.org",
    "a..b@example.org",
    '"ada"@example.org',
    "ada(comment)@example.org",
    "Ada <ada@example.org>",
    "<ada@example.org>",
    "ada@example.org, eve@example.org",
    "ada,eve@example.org",
    "ada;eve@example.org",
    "group:ada@example.org",
    "ada\\eve@example.org",
    "ada@[127.0.0.1]",
    "ada@127.0.0.1",
    "ada@-example.org",
    "ada@example-.org",
    "ada@exam_ple.org",
    "ada@example..org",
    "ada@.example.org",
    "ada@example.org.",
    "ada@example.123",
    "ada@" + "b" * 64 + ".org",
    "a" * 65 + "@example.org",
    "\u00e4" * 33 + "@example.org",
    "aaaa@" + ".".join(["b" * 62] * 4),
    "\u0130" * 300 + "@example.org",
    "a" * 100_000 + "@example.org",
    "ada@" + "\u00e4" * 100_000 + ".org",
    # a mail client decodes this to victim@evil.example
    "=?utf-8?q?victim=40evil.example=2c?=@example.org",
    "x=?utf-8?b?dmljdGlt?=@example.org",
]


@pytest.mark.parametrize(("given", "form"), ACCEPTED.items())
def test_an_address_has_one_form(given: str, form: str) -> None:
    assert normalise(given) == form


@pytest.mark.parametrize("form", sorted(set(ACCEPTED.values())))
def test_the_form_is_its_own_form(form: str) -> None:
    assert normalise(form) == form


@pytest.mark.parametrize("given", REFUSED, ids=lambda given: ascii(given)[:50])
def test_what_cannot_be_an_address_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="address"):
        normalise(given)


@pytest.mark.parametrize("address", sorted(set(ACCEPTED.values())))
def test_mail_goes_to_the_address_and_to_nobody_else(address: str) -> None:
    message = Mailer(Settings()).compose("key", address, "subject", "text")
    assert extract_recipients(message) == [address]
    head = message.as_bytes(policy=SMTP.clone(utf8=True)).split(b"\r\n\r\n")[0]
    unfolded = head.replace(b"\r\n ", b" ").replace(b":  ", b": ").decode()
    assert f"To: {address}" in unfolded.split("\r\n")
