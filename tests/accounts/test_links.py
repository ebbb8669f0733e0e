"""Tokens in mailed links: what they are good for, and for how long."""

import time
from collections.abc import Callable
from uuid import uuid4

import itsdangerous.timed
import pytest
from pydantic import SecretStr

from service.accounts import links
from service.fields import SecretList
from service.settings import Settings

OLD_KEY, NEW_KEY = "the-0ld-key-the-0ld-key-the-0ld-key", "the-n3w-key-the-n3w-key-the-n3w-key"
ACCOUNT = uuid4()


def settings(key: str = NEW_KEY, *fallbacks: str) -> Settings:
    return Settings(secret_key=SecretStr(key), secret_key_fallbacks=SecretList(fallbacks))


def made_ago(
    monkeypatch: pytest.MonkeyPatch, seconds: float, purpose: links.Purpose = links.CONFIRM
) -> str:
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(itsdangerous.timed.time, "time", lambda: now - seconds)
        return links.make(settings(), purpose, ACCOUNT, "stamp")


def test_a_token_is_read_as_it_was_made() -> None:
    token = links.make(settings(), links.CONFIRM, ACCOUNT, "stamp")
    assert links.read(settings(), links.CONFIRM, token) == (ACCOUNT, "stamp")


def test_a_token_fits_into_a_url_and_into_the_longest_that_is_accepted() -> None:
    token = links.make(settings(), links.CONFIRM, ACCOUNT, "s" * 32)
    assert all(character.isalnum() or character in "-_." for character in token)
    assert len(token) < 500


PURPOSES = pytest.mark.parametrize(
    ("purpose", "lifetime_seconds"), [(links.CONFIRM, 24 * 3600), (links.RESET, 3600)]
)


@PURPOSES
def test_a_token_lives_for_a_while(
    monkeypatch: pytest.MonkeyPatch, purpose: links.Purpose, lifetime_seconds: int
) -> None:
    token = made_ago(monkeypatch, lifetime_seconds - 60, purpose)
    assert links.read(settings(), purpose, token)


@PURPOSES
@pytest.mark.parametrize("late_seconds", [2, 10 * 365 * 86400, -48 * 3600])
def test_an_expired_token_or_one_of_the_future_is_void(
    monkeypatch: pytest.MonkeyPatch,
    purpose: links.Purpose,
    lifetime_seconds: int,
    late_seconds: float,
) -> None:
    token = made_ago(monkeypatch, lifetime_seconds + late_seconds, purpose)
    with pytest.raises(links.LinkInvalid):
        links.read(settings(), purpose, token)


def test_a_token_is_good_for_its_purpose_alone() -> None:
    for made, used in ((links.RESET, links.CONFIRM), (links.CONFIRM, links.RESET)):
        token = links.make(settings(), made, ACCOUNT, "stamp")
        with pytest.raises(links.LinkInvalid):
            links.read(settings(), used, token)


@pytest.mark.parametrize(
    "damage",
    [
        lambda token: token[:-1],
        lambda token: token[1:],
        # Not the last one, of which two bits mean nothing.
        lambda token: token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1],
        lambda token: token.swapcase(),
        lambda token: token.replace(".", "", 1),
        lambda token: token.rpartition(".")[0],
        lambda token: f"{token}.{token}",
        lambda token: token + "\n",
        lambda token: token + "\x00",
        lambda token: " " + token,
        lambda _: "",
        lambda _: ".",
        lambda _: "..",
        lambda _: "a.b.c",
        lambda _: "\u00e4\u00f6\u00fc.\U0001f600.x",
        lambda _: "." * 500,
    ],
)
def test_a_damaged_token_is_void(damage: Callable[[str], str]) -> None:
    token = links.make(settings(), links.CONFIRM, ACCOUNT, "stamp")
    with pytest.raises(links.LinkInvalid):
        links.read(settings(), links.CONFIRM, damage(token))


def test_a_token_signed_before_the_key_was_rotated_is_still_good() -> None:
    token = links.make(settings(OLD_KEY), links.CONFIRM, ACCOUNT, "stamp")
    assert links.read(settings(NEW_KEY, OLD_KEY), links.CONFIRM, token) == (ACCOUNT, "stamp")


def test_a_token_signed_with_a_key_that_was_dropped_is_void() -> None:
    token = links.make(settings(OLD_KEY), links.CONFIRM, ACCOUNT, "stamp")
    with pytest.raises(links.LinkInvalid):
        links.read(settings(NEW_KEY), links.CONFIRM, token)


def test_new_tokens_are_signed_with_the_new_key() -> None:
    token = links.make(settings(NEW_KEY, OLD_KEY), links.CONFIRM, ACCOUNT, "stamp")
    assert links.read(settings(NEW_KEY), links.CONFIRM, token)
    with pytest.raises(links.LinkInvalid):
        links.read(settings(OLD_KEY), links.CONFIRM, token)
