"""Whatever somebody gives for an address, a name, a password or a token."""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from email import message_from_bytes
from email.policy import SMTP
from uuid import UUID, uuid4

import pytest
from aiosmtplib.email import extract_recipients
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from hostile import texts
from service.accounts import links
from service.accounts.addresses import normalise
from service.accounts.attempts import network
from service.accounts.schemas import NewAccount, NewKey
from service.mail import Mailer, MailRefused
from service.mail_html import html
from service.settings import Settings

KEY, OTHER = "the-k3y-of-the-t3sts-the-k3y-of", "an0ther-key-an0ther-key-an0ther-key"
SETTINGS = Settings(secret_key=KEY)
MAILER = Mailer(SETTINGS)
PURPOSES = (links.CONFIRM, links.RESET)

local_parts = texts | st.from_regex(r"[a-z.+=?_-]{1,12}", fullmatch=True)
addresses = st.tuples(local_parts, texts | st.sampled_from(["example.org", "bücher.example"])).map(
    "@".join
)


@given(text=addresses | texts)
@example("=?utf-8?q?a@b.example")
@example("\u2024@example.org")
@example("\u01c4\u0345@example.org")
@example("a@xn--.example")
@example("a@\u3002example")
def test_any_address_has_one_form_that_a_mail_can_be_sent_to(text: str) -> None:
    try:
        address = normalise(text)
    except ValueError as error:
        assert_repeats_nothing(error)
        return
    assert normalise(address) == address
    assert len(address.encode()) <= 254
    assert address.isprintable()
    assert not set(address) & set(' \t\r\n<>,;:()[]\\"')
    assert address.count("@") == 1
    assert address.partition("@")[2].isascii()
    assert_sent_to(address)


def assert_repeats_nothing(error: ValueError) -> None:
    """Its words go to the caller."""
    assert str(error) in {
        "expected a mail address such as ada@example.org",
        "a mail address has at most 254 bytes",
        "the part of a mail address before its @ has at most 64 bytes",
    }


def assert_sent_to(address: str) -> None:
    message = MAILER.compose("key", address, "Subject", "text")
    assert extract_recipients(message) == [address]
    head, _, _ = message.as_bytes(policy=SMTP.clone(utf8=True)).partition(b"\r\n\r\n")
    assert f"To: {address}".encode() in head.replace(b"\r\n ", b" ").split(b"\r\n")


@given(to=texts, subject=texts, text=texts)
def test_any_mail_has_its_own_headers_and_no_others(to: str, subject: str, text: str) -> None:
    try:
        message = MAILER.compose("key", to, subject, text)
    except MailRefused:
        return
    whole = message.as_bytes(policy=SMTP.clone(utf8=True))
    names = [name.lower() for name in message_from_bytes(whole)]
    assert sorted(names) == sorted(
        ["from", "to", "subject", "date", "message-id", "auto-submitted"]
        + ["mime-version", "content-type"]
    )


@given(title=texts, text=texts)
def test_any_text_in_a_page_of_a_mail_stays_text(title: str, text: str) -> None:
    page = html(title, text + '<script>alert("x")</script> https://x.example/"><script>')
    assert "<script" not in page
    assert '"><s' not in page


@given(
    email=texts,
    password=texts,
    name=texts,
    scopes=st.lists(texts | st.sampled_from(["read", "write"]), max_size=3),
    expires_at=texts | st.datetimes().map(lambda moment: f"{moment.isoformat()}Z"),
)
def test_any_body_is_taken_or_refused_and_holds_text_alone(
    email: str, password: str, name: str, scopes: list[str], expires_at: str
) -> None:
    try:
        account = NewAccount.model_validate({"email": email, "password": password})
        assert password not in repr(account)
        account.password.get_secret_value().encode()
    except ValidationError:
        pass
    try:
        key = NewKey.model_validate({"name": name, "scopes": scopes, "expires_at": expires_at})
        assert "\0" not in key.name
        key.name.encode()
    except ValidationError:
        pass


@given(host=texts | st.ip_addresses().map(str))
@example("fe80::1%eth0")
@example("::ffff:1.2.3.4")
def test_any_client_is_counted_as_somebody(host: str) -> None:
    assert isinstance(network(host), str)


# --- tokens in links ----------------------------------------------------------------------------


def refused(token: str, purpose: links.Purpose = links.CONFIRM) -> bool:
    try:
        links.read(SETTINGS, purpose, token)
    except links.LinkInvalid:
        return True
    return False


@pytest.mark.parametrize("purpose", PURPOSES, ids=lambda purpose: purpose.name)
@given(
    token=texts
    | texts.map(lambda text: base64.urlsafe_b64encode(text.encode("utf-8", "replace")).decode())
)
def test_any_text_is_no_token(purpose: links.Purpose, token: str) -> None:
    assert refused(token, purpose)
    assert refused(f"{token}.{token}.{token}", purpose)


@given(account=st.uuids(), stamp=texts.filter(str.isascii), data=st.data())
def test_a_changed_token_is_void_or_says_the_same(
    account: UUID, stamp: str, data: st.DataObject
) -> None:
    token = links.make(SETTINGS, links.CONFIRM, account, stamp)
    at, length = data.draw(st.integers(0, len(token))), data.draw(st.integers(0, 30))
    changed = token[:at] + data.draw(texts) + token[at + length :]
    try:
        assert links.read(SETTINGS, links.CONFIRM, changed) == (account, stamp)
    except links.LinkInvalid:
        assert changed != token


ADA, EVE = (
    UUID("8b0e6ba6-bdb6-4f53-9d1b-5ac0ee3b2a71"),
    UUID("3f0c7d35-93fb-4b0e-8f9a-c6a0e5a92d14"),
)


def parts(account: UUID = ADA, stamp: str = "stamp") -> list[str]:
    return links.make(SETTINGS, links.CONFIRM, account, stamp).split(".")


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_truncated_token_is_void(cut: int) -> None:
    token = ".".join(parts())
    assert refused(token[:-cut])
    assert refused(token[cut:])


def standard_alphabet(token: str) -> str:
    """RFC 4648's other one."""
    return token.replace("-", "+").replace("_", "/")


def bare_hmac() -> str:
    """Signed with the secret itself, not with what is derived from it for the purpose."""
    text = ".".join(parts()[:2])
    digest = hmac.digest(KEY.encode(), text.encode(), hashlib.sha1)
    return f"{text}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


FORGED: dict[str, Callable[[], str]] = {
    "no signature": lambda: ".".join(parts()[:2]),
    "an empty signature": lambda: ".".join([*parts()[:2], ""]),
    "no time": lambda: ".".join([parts()[0], parts()[2]]),
    "a time of its own": lambda: ".".join([parts()[0], "__________8", parts()[2]]),
    "a longer time": lambda: ".".join([parts()[0], "A" + parts()[1], parts()[2]]),
    "the account of another": lambda: ".".join([parts(EVE)[0], *parts()[1:]]),
    "another stamp": lambda: ".".join([parts(stamp="other")[0], *parts()[1:]]),
    "a key of nothing": lambda: links.make(Settings(secret_key=""), links.CONFIRM, ADA, "stamp"),
    "another key": lambda: links.make(Settings(secret_key=OTHER), links.CONFIRM, ADA, "stamp"),
    "another purpose": lambda: links.make(SETTINGS, links.RESET, ADA, "stamp"),
    "a compressed payload": lambda: "." + ".".join(parts()),
    "a line break": lambda: ".".join(parts()) + "\nx",
    "twice": lambda: ".".join(parts() * 2),
    "half a megabyte": lambda: "A" * 500_000 + ".".join(parts()),
    "dots alone": lambda: "." * 1000,
    "a JSON web token without a signature": lambda: (
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIiwiZXhwIjo5OTk5OTk5OTk5fQ."
    ),
    "the bare key as HMAC key": bare_hmac,
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
def test_a_forged_token_is_void(forge: Callable[[], str]) -> None:
    began = time.process_time()
    assert refused(forge())
    assert time.process_time() - began < 1


def test_a_token_in_the_other_alphabet_is_void_or_the_same() -> None:
    for _ in range(20):
        account, stamp = uuid4(), "stamp"
        token = links.make(SETTINGS, links.CONFIRM, account, stamp)
        try:
            read = links.read(SETTINGS, links.CONFIRM, standard_alphabet(token))
        except links.LinkInvalid:
            continue
        assert read == (account, stamp)
