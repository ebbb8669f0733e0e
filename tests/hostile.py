"""What somebody sends who means no good: strategies that find the corners of parsers sooner."""

from hypothesis import strategies as st

CANARY = "Kanarienvogel"
# Each means something to some parser on the way.
PIECES = [
    *("\0", "\r\n", "\n", "\r", "\t", "\x1b[2J", "\x7f", "\x85", "\u2028", "\u202e", "\ufeff"),
    *("\ud800", "\udcff", "é", "e\u0301", "\u0130", "\u212a", "１", "ß", "\U0010ffff", "\u200b"),
    *("%00", "%0d%0a", "%2e%2e%2f", "%ff", "%c0%af", "%", "+", "\\", "../", "/", "//", "..", "."),
    *(
        "'",
        '"',
        "`",
        "${HOME}",
        "$(id)",
        "{}",
        "{0.__class__}",
        "%s%n",
        "<script>",
        "-->",
        "\\u0000",
    ),
    *("://", "@", ":", ";", ",", "=", "?", "#", "&", "[", "]", "[::1]", "*", "*.", "|", "~", " "),
    *("0", "-1", "+1", "1e9", "0x10", "1_0", "9" * 30, "٣", "NaN", "inf", "1.0", "16MiB"),
    *("null", "true", "None", "a", "localhost", "sqlite", "postgresql", "s3", "Bearer ", "a" * 300),
]

texts = st.text(max_size=40) | st.lists(
    st.sampled_from(PIECES) | st.text(max_size=5), max_size=8
).map("".join)
ascii_texts = texts.map(lambda text: text.encode("ascii", "ignore").decode())
octets = st.binary(max_size=60) | texts.map(lambda text: text.encode("utf-8", "surrogatepass"))
# What HTTP parsers let through in a field's value.
field_values = octets.map(lambda value: value.translate(None, b"\0\r\n").strip())


def around(secret: str = CANARY) -> st.SearchStrategy[str]:
    """Texts with a secret in them."""
    return st.tuples(texts, texts).map(secret.join)
