"""Where the raw text of a setting comes from, and in which order the places are asked.

Standard library only, and little of that: the container's health client reads `BIND`
through this module and must not spend its 25 ms on importing pydantic.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping

DEFAULT_BIND = "127.0.0.1:8000"
SECRETS_DIRECTORY = "/run/secrets"
MAX_FILE_BYTES = 64 * 1024


class Given:
    """The text of one setting and the place it came from (never a path the operator typed)."""

    __slots__ = ("origin", "text")

    def __init__(self, text: str, origin: str) -> None:
        self.text = text
        self.origin = origin


class Problem:
    """One thing wrong with the configuration, in words that never contain the value given."""

    __slots__ = ("expected", "given", "source", "variable")

    def __init__(self, variable: str, source: str, expected: str, given: str) -> None:
        self.variable = variable
        self.source = source
        self.expected = expected
        self.given = given

    def __str__(self) -> str:
        return f"{self.variable} ({self.source}): expected {self.expected}; got {self.given}"

    def __repr__(self) -> str:
        return f"Problem({str(self)!r})"

    def as_dict(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ("variable", "source", "expected", "given")}


class SourceError(Exception):
    """A place was named for a setting, but nothing usable is there."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class ConfigurationError(Exception):
    """The configuration is wrong; `problems` says where, without any value."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.report())

    def report(self) -> str:
        count = len(self.problems)
        head = f"configuration error: {count} problem{'s' if count != 1 else ''}"
        return "\n  ".join([head, *map(str, self.problems)])


class _Unusable(Exception):
    """Why a file has no text to offer, in words that hold neither its path nor its content."""


def _read_text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) <= MAX_FILE_BYTES:
            return content.decode("utf-8-sig")
        reason = "a larger file"
    except UnicodeDecodeError:
        reason = "bytes that are not UTF-8"
    except (OSError, ValueError) as error:
        reason = f"a file that cannot be read ({getattr(error, 'strerror', 'not a path')})"
    # Not inside `except`: the first error holds the path or the content, and would come along.
    raise _Unusable(reason)


def read_secret_file(path: str, variable: str, origin: str) -> Given:
    """The text of a secret file without its last line break, or its byte order mark.

    Raises SourceError where the file is missing, unreadable, empty, over 64 KiB or not UTF-8.
    The path is not repeated in the message: a secret put there by mistake would be printed.
    """
    try:
        text = _read_text(path).removesuffix("\n").removesuffix("\r")
        reason = "" if text.strip() else "an empty file"
    except _Unusable as error:
        reason = str(error)
    if reason:
        expected = "a readable UTF-8 file of 1 byte to 64 KiB"
        raise SourceError(Problem(variable, origin, expected, reason))
    return Given(text, origin)


class Sources:
    """Command line, `NAME_FILE`, secrets directory, environment and `.env`, asked in that order.

    An environment variable that is set but empty counts as not set, as container tools pass
    `${NAME:-}` for what the operator left out.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        command_line: Mapping[str, str] | None = None,
        secrets_directory: str = SECRETS_DIRECTORY,
        dotenv: Mapping[str, str] | None = None,
    ) -> None:
        self.environ = environ
        self.command_line = command_line or {}
        self.secrets_directory = secrets_directory
        self.dotenv = dotenv or {}

    def given(self, variable: str) -> Given | None:
        """The first text found for a variable, or None. Raises SourceError."""
        places: tuple[Callable[[str], Given | None], ...] = (
            self._from_command_line,
            self._from_named_file,
            self._from_secrets_directory,
            self._from_environment,
            self._from_dotenv,
        )
        for place in places:
            if (found := place(variable)) is not None:
                return found
        return None

    def gather(self, variables: Iterable[str]) -> tuple[dict[str, Given], list[Problem]]:
        """What is given of several variables, and what is wrong with the rest."""
        given: dict[str, Given] = {}
        problems: list[Problem] = []
        for variable in variables:
            try:
                found = self.given(variable)
            except SourceError as error:
                problems.append(error.problem)
                continue
            if found is not None:
                given[variable] = found
        return given, problems

    def closed(self) -> Problem | None:
        """The secrets directory, where this user may not look into it; its secrets are not seen."""
        directory = self.secrets_directory
        if os.path.isdir(directory) and not os.access(directory, os.X_OK):
            given = "one that this user may not enter"
            return Problem("secrets directory", directory, "a readable directory", given)
        return None

    def names(self) -> Iterator[tuple[str, str]]:
        """Every (name, source) that was given from outside, known to the settings or not."""
        yield from ((name, "command line") for name in self.command_line)
        yield from ((name, "environment") for name, text in self.environ.items() if text)
        yield from ((name, ".env") for name, text in self.dotenv.items() if text)
        try:
            found = sorted(os.listdir(self.secrets_directory))
        except OSError:
            return
        yield from ((name, self.secrets_directory) for name in found)

    def _from_command_line(self, variable: str) -> Given | None:
        text = self.command_line.get(variable)
        return None if text is None else _checked(text, variable, "command line")

    def _from_named_file(self, variable: str) -> Given | None:
        pointer = f"{variable}_FILE"
        path = self.environ.get(pointer)
        if not path:
            return None
        if self.environ.get(variable):
            raise SourceError(
                Problem(variable, "environment", f"one of {variable} and {pointer}", "both")
            )
        return read_secret_file(path, variable, pointer)

    def _from_secrets_directory(self, variable: str) -> Given | None:
        path = f"{self.secrets_directory}/{variable.lower()}"
        if not os.path.lexists(path):
            return None
        return read_secret_file(path, variable, path)

    def _from_environment(self, variable: str) -> Given | None:
        text = self.environ.get(variable)
        return _checked(text, variable, "environment") if text else None

    def _from_dotenv(self, variable: str) -> Given | None:
        text = self.dotenv.get(variable)
        return Given(text, ".env") if text else None


def _checked(text: str, variable: str, origin: str) -> Given:
    """Python hands bytes that are not UTF-8 on as lone surrogates, which nothing can encode."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise SourceError(Problem(variable, origin, "UTF-8 text", "bytes that are not UTF-8"))
    return Given(text, origin)


def read_dotenv(path: str = ".env") -> dict[str, str]:
    """The names and values of a `.env` file; empty where there is none.

    Raises SourceError where it cannot be read, or a line of it is not understood.
    """
    if not os.path.isfile(path):  # a directory of this name may well be a virtual environment
        return {}
    import io  # noqa: PLC0415  (these two cost 15 ms, which only a developer's machine should pay)

    from dotenv.parser import parse_stream  # noqa: PLC0415

    try:
        text, reason = _read_text(path), ""
    except _Unusable as error:
        text, reason = "", str(error)
    if reason:
        raise SourceError(Problem(".env", "file", "UTF-8 text of at most 64 KiB", reason))
    found = list(parse_stream(io.StringIO(text)))
    wrong = [
        each.original.line for each in found if each.error or (each.key and each.value is None)
    ]
    if wrong:
        place = f"line {', '.join(map(str, wrong))}"
        raise SourceError(Problem(".env", place, "NAME=value on every line", "something else"))
    return {each.key: each.value for each in found if each.key and each.value}
