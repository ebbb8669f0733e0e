"""File names as they may appear in a path, a header and a log line."""

import re
import unicodedata

MAX_NAME_BYTES = 255
JOINERS = "\u200c\u200d"  # invisible, but Persian, Hindi and family emoji are spelt with them
TAKEN = "thumbnail"  # /media/{id}/thumbnail


def clean_name(name: str | None) -> str:
    """A file name as close to the client's as is safe, of at most 255 bytes."""
    base = re.split(r"[/\\]", name or "")[-1]
    visible = "".join(c for c in base if c in JOINERS or not _is_hidden(c))
    kept = _shortened(unicodedata.normalize("NFC", visible).strip(" ."))
    if kept == TAKEN:
        return f"{kept}.file"
    return kept or "file"


def _is_hidden(character: str) -> bool:
    """Control characters, half of a surrogate pair, and those that turn the writing direction."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _shortened(name: str) -> str:
    """The extension stays, unless it is what is too long."""
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    stem, dot, extension = name.rpartition(".")
    room = MAX_NAME_BYTES - len((dot + extension).encode())
    kept = _cut(stem, max(0, room))  # nothing, where not even its first letter fits
    return kept + dot + extension if kept else _cut(name, MAX_NAME_BYTES)


def _cut(text: str, max_bytes: int) -> str:
    return text.encode()[:max_bytes].decode(errors="ignore").rstrip(" .")
