"""The HTML part of a mail, made from its text: paragraphs, and links that can be clicked."""

import re
from html import escape

LINK = re.compile(r"https?://[^\s<>\"]+[^\s<>\".,;:!?)]")

_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body style="font: 16px/1.5 sans-serif; max-width: 40em; margin: 1em">
{body}
</body></html>
"""


def html(title: str, text: str) -> str:
    """A page that says the same as a text, whose blank lines part paragraphs."""
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    body = "\n".join(f"<p>{_linked(part)}</p>" for part in paragraphs)
    return _PAGE.format(title=escape(title), body=body)


def _linked(text: str) -> str:
    """Escaped, with what is a link made one."""
    pieces, position = [], 0
    for match in LINK.finditer(text):
        link = escape(match[0])
        pieces += [escape(text[position : match.start()]), f'<a href="{link}">{link}</a>']
        position = match.end()
    pieces.append(escape(text[position:]))
    return "".join(pieces).replace("\n", "<br>\n")
