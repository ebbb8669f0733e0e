"""Where the text of a setting comes from: the places, their order, what is wrong with one."""

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

import service
from service.sources import MAX_FILE_BYTES, Problem, SourceError, Sources, read_dotenv

SOURCE = str(Path(service.__file__).parents[1])
PLACES = ["command line", "named file", "secrets directory", "environment", ".env"]


def sources_holding(places: list[str], tmp_path: Path) -> Sources:
    """Sources in which each of these places gives MAIL_PASSWORD its own name as the value."""
    directory = tmp_path / "run"
    directory.mkdir()
    sources = Sources({}, secrets_directory=str(directory))
    environ: dict[str, str] = {}
    if "command line" in places:
        sources.command_line = {"MAIL_PASSWORD": "command line"}
    if "named file" in places:
        named = tmp_path / "named"
        named.write_text("named file\n")
        environ["MAIL_PASSWORD_FILE"] = str(named)
    if "secrets directory" in places:
        (directory / "mail_password").write_text("secrets directory\n")
    if "environment" in places:
        environ["MAIL_PASSWORD"] = "environment"
    if ".env" in places:
        sources.dotenv = {"MAIL_PASSWORD": ".env"}
    sources.environ = environ
    return sources


def problem_of(sources: Sources, variable: str = "MAIL_PASSWORD") -> Problem:
    with pytest.raises(SourceError) as caught:
        sources.given(variable)
    return caught.value.problem


@pytest.mark.parametrize("first", range(len(PLACES)))
def test_each_place_wins_over_those_after_it(first: int, tmp_path: Path) -> None:
    # The environment gives either the value or the file, so it is left out beside a named file.
    places = [place for place in PLACES[first:] if not (first <= 1 and place == "environment")]

    found = sources_holding(places, tmp_path).given("MAIL_PASSWORD")

    assert found is not None
    assert found.text == PLACES[first]


def test_a_mounted_secret_wins_over_a_stale_variable(tmp_path: Path) -> None:
    found = sources_holding(["secrets directory", "environment"], tmp_path).given("MAIL_PASSWORD")

    assert found is not None
    assert found.text == "secrets directory"


def test_nothing_anywhere_is_none(tmp_path: Path) -> None:
    assert sources_holding([], tmp_path).given("MAIL_PASSWORD") is None


def test_a_variable_and_its_file_together_are_refused(tmp_path: Path) -> None:
    problem = problem_of(sources_holding(["named file", "environment"], tmp_path))

    assert (problem.variable, problem.source) == ("MAIL_PASSWORD", "environment")
    assert problem.expected == "one of MAIL_PASSWORD and MAIL_PASSWORD_FILE"
    assert problem.given == "both"


def test_the_command_line_settles_a_variable_given_twice(tmp_path: Path) -> None:
    found = sources_holding(PLACES, tmp_path).given("MAIL_PASSWORD")

    assert found is not None
    assert found.origin == "command line"


@pytest.mark.parametrize(
    ("place", "origin"),
    [
        ("command line", "command line"),
        ("named file", "MAIL_PASSWORD_FILE"),
        ("secrets directory", "{directory}/mail_password"),
        ("environment", "environment"),
        (".env", ".env"),
    ],
)
def test_the_origin_names_the_place(place: str, origin: str, tmp_path: Path) -> None:
    sources = sources_holding([place], tmp_path)

    found = sources.given("MAIL_PASSWORD")

    assert found is not None
    assert found.origin == origin.format(directory=sources.secrets_directory)


@pytest.mark.parametrize("environ", [{"MAIL_PASSWORD": ""}, {"MAIL_PASSWORD_FILE": ""}])
def test_an_empty_environment_variable_counts_as_not_set(environ: dict[str, str]) -> None:
    assert Sources(environ, secrets_directory="/nowhere").given("MAIL_PASSWORD") is None


def test_an_empty_variable_beside_its_file_is_no_conflict(tmp_path: Path) -> None:
    sources = sources_holding(["named file"], tmp_path)
    sources.environ = {**sources.environ, "MAIL_PASSWORD": ""}

    found = sources.given("MAIL_PASSWORD")

    assert found is not None
    assert found.text == "named file"


def test_an_empty_text_on_the_command_line_counts(tmp_path: Path) -> None:
    sources = sources_holding(["environment"], tmp_path)
    sources.command_line = {"MAIL_PASSWORD": ""}

    found = sources.given("MAIL_PASSWORD")

    assert found is not None
    assert found.text == ""


def test_only_the_environment_may_point_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "named").write_text("value")
    pointer = {"MAIL_PASSWORD_FILE": str(tmp_path / "named")}
    sources = Sources({}, command_line=pointer, dotenv=pointer, secrets_directory=str(tmp_path))

    assert sources.given("MAIL_PASSWORD") is None


@pytest.mark.parametrize("variable", ["MAIL_PASSWORD_FILE", "secrets directory"])
@pytest.mark.parametrize(
    ("content", "given"),
    [
        (b"", "an empty file"),
        (b"\n", "an empty file"),
        (b" \t\r\n", "an empty file"),
        (b"\xef\xbb\xbf\n", "an empty file"),
        (b"\xff\xfe\x00", "bytes that are not UTF-8"),
        (b"x" * (MAX_FILE_BYTES + 1), "a larger file"),
    ],
)
def test_a_secret_file_without_usable_text_is_an_error(
    variable: str, content: bytes, given: str, tmp_path: Path
) -> None:
    path = tmp_path / "mail_password"
    path.write_bytes(content)
    environ = {variable: str(path)} if variable == "MAIL_PASSWORD_FILE" else {}
    directory = "/nowhere" if environ else str(tmp_path)

    problem = problem_of(Sources(environ, secrets_directory=directory))

    assert problem.given == given


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"key", "key"),
        (b"key\n", "key"),
        (b"key\r\n", "key"),
        (b"key\n\n", "key\n"),
        (b" key ", " key "),
        (b"\xef\xbb\xbfkey", "key"),
        ("schlüssel".encode(), "schlüssel"),
        (b"x" * MAX_FILE_BYTES, "x" * MAX_FILE_BYTES),
    ],
)
def test_a_secret_file_loses_its_last_line_break_and_nothing_else(
    content: bytes, text: str, tmp_path: Path
) -> None:
    (tmp_path / "mail_password").write_bytes(content)

    found = Sources({}, secrets_directory=str(tmp_path)).given("MAIL_PASSWORD")

    assert found is not None
    assert found.text == text


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("{tmp}/missing", "No such file or directory"),
        ("{tmp}", "Is a directory"),
        ("{tmp}/file/below", "Not a directory"),
        ("nul\0byte", "not a path"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_with_its_reason(
    path: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    environ = {"MAIL_PASSWORD_FILE": path.format(tmp=tmp_path)}

    problem = problem_of(Sources(environ, secrets_directory="/nowhere"))

    assert problem.given == f"a file that cannot be read ({reason})"


def test_a_directory_in_place_of_a_mounted_secret_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mail_password").mkdir()

    problem = problem_of(Sources({}, secrets_directory=str(tmp_path)))

    assert problem.given == "a file that cannot be read (Is a directory)"


def test_a_dangling_link_in_the_secrets_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mail_password").symlink_to(tmp_path / "missing")

    problem = problem_of(Sources({"MAIL_PASSWORD": "stale"}, secrets_directory=str(tmp_path)))

    assert problem.given == "a file that cannot be read (No such file or directory)"


@pytest.mark.parametrize("directory", ["/nowhere", "/dev/null"])
def test_no_secrets_directory_is_no_error(directory: str) -> None:
    sources = Sources({}, secrets_directory=directory)

    assert sources.given("MAIL_PASSWORD") is None
    assert sources.closed() is None


def test_a_file_that_belongs_to_somebody_else_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mail_password").write_text("secret")
    (tmp_path / "mail_password").chmod(0)
    code = "print(Sources({}, secrets_directory='.').gather(['MAIL_PASSWORD'])[1])"

    assert "cannot be read (Permission denied)" in as_nobody(code, tmp_path)


def test_a_secrets_directory_that_may_not_be_entered_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    code = "print(Sources({}, secrets_directory='closed').closed())"

    printed = as_nobody(code, tmp_path)

    (tmp_path / "closed").chmod(0o700)  # pytest removes it
    assert "may not enter" in printed


def as_nobody(code: str, directory: Path) -> str:
    """What a program prints that runs in a directory without root's right to read everything."""
    directory.chmod(0o755)
    leave_root = "os.setgroups([]); os.setgid(65534); os.setuid(65534)" if not os.getuid() else ""
    program = f"import os; from service.sources import Sources\n{leave_root}\n{code}"
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        cwd=directory,
        env={"PYTHONPATH": SOURCE},
    )
    return done.stdout


@pytest.mark.parametrize("place", ["command line", "environment"])
def test_bytes_that_are_not_utf8_are_refused_where_they_come_in(place: str) -> None:
    given = {"MAIL_PASSWORD": "pass\udcffword"}  # what Python makes of the byte FF
    sources = (
        Sources(given, secrets_directory="/nowhere")
        if place == "environment"
        else Sources({}, command_line=given, secrets_directory="/nowhere")
    )

    problem = problem_of(sources)

    assert (problem.source, problem.given) == (place, "bytes that are not UTF-8")


@pytest.mark.parametrize("content", [b"CANARY\xff", b"CANARY" * MAX_FILE_BYTES, None])
def test_a_failed_read_brings_no_content_and_no_path_along(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "CANARY"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(SourceError) as caught:
        Sources({"SECRET_KEY_FILE": str(path)}, secrets_directory="/nowhere").given("SECRET_KEY")

    error = caught.value
    assert error.__context__ is None
    assert error.__cause__ is None
    assert "CANARY" not in "".join(traceback.format_exception(error)) + repr(error.problem)


def test_a_dotenv_file_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# comment\nexport A=1\nB='x # y'\nC=$A ${A}\nD=\nA=2\n")

    assert read_dotenv(str(path)) == {"A": "2", "B": "x # y", "C": "$A ${A}"}


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(b"\xef\xbb\xbfDEBUG=true\n")

    assert read_dotenv(str(path)) == {"DEBUG": "true"}


def test_no_dotenv_file_gives_nothing(tmp_path: Path) -> None:
    assert read_dotenv(str(tmp_path / "missing")) == {}


def test_a_directory_called_dotenv_gives_nothing(tmp_path: Path) -> None:
    assert read_dotenv(str(tmp_path)) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"A=1\nDEBUG true\nB\n", ".env (line 2, 3): expected NAME=value on every line"),
        (b"A='open\n", ".env (line 1): expected NAME=value on every line"),
        (b"A=\xff\n", ".env (file): expected UTF-8 text of at most 64 KiB; got bytes"),
        (b"A" * (MAX_FILE_BYTES + 1), ".env (file): expected UTF-8 text of at most 64 KiB; got a"),
    ],
)
def test_a_dotenv_file_that_is_not_understood_is_an_error(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / ".env"
    path.write_bytes(content)

    with pytest.raises(SourceError) as caught:
        read_dotenv(str(path))

    assert str(caught.value).startswith(message)
    assert caught.value.__context__ is None


def test_the_module_stays_light_enough_for_the_health_client() -> None:
    program = (
        "import sys; sys.path[:] = sys.argv[1:]; import service.sources;"
        "print(' '.join(sys.modules))"
    )
    command = [sys.executable, "-I", "-S", "-c", program, SOURCE, os.path.dirname(os.__file__)]

    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert not {"pydantic", "dotenv", "re", "json", "typing", "logging"} & set(loaded)
