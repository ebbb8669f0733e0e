"""The list of passwords that nobody may choose."""

import unicodedata

from service.accounts.known_passwords import LIST, is_known, is_of_address
from service.accounts.schemas import MIN_PASSWORD_CHARACTERS


def test_the_list_is_sorted_and_in_the_form_that_is_looked_up() -> None:
    lines = LIST.read_text("utf-8").splitlines()
    assert lines == sorted(set(lines))
    assert all(line == unicodedata.normalize("NFC", line).casefold().strip() for line in lines)
    assert min(map(len, lines)) >= MIN_PASSWORD_CHARACTERS


def test_what_is_empty_or_long_is_not_on_it() -> None:
    assert not is_known("")
    assert not is_known(" " * MIN_PASSWORD_CHARACTERS)
    assert not is_known("correct horse battery staple")


def test_an_address_is_none_where_there_is_no_account_yet() -> None:
    assert not is_of_address(" " * MIN_PASSWORD_CHARACTERS, "")
