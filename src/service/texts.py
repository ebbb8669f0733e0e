"""Lines of text as people write them: patterns that OpenAPI can tell of (ECMA 262)."""

_CONTROL = r"\x00-\x1f\x7f-\x9f"
LINE = f"^[^{_CONTROL}]*$"
VISIBLE_LINE = rf"^[^{_CONTROL}]*[^\s{_CONTROL}][^{_CONTROL}]*$"
