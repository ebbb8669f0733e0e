"""Texts as people write them: patterns that OpenAPI can tell of (ECMA 262), and words for those who
break them."""

import re
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class Matching:
    """Annotates a string: it matches the pattern, or the mistake is told as what was `expected`,
    where pydantic's own words repeat the pattern."""

    pattern: str
    expected: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._matched, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "pattern": self.pattern}

    def _matched(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            raise ValueError(f"expected {self.expected}")
        return text


_CONTROL = r"\x00-\x1f\x7f-\x9f"
LINE = Matching(f"^[^{_CONTROL}]*$", "one line of text, without control characters")
VISIBLE_LINE = Matching(
    rf"^[^{_CONTROL}]*[^\s{_CONTROL}][^{_CONTROL}]*$",
    "one line of text that is not blank, without control characters",
)
