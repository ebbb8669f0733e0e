"""What OpenAPI says of the media library, where the code of its endpoints does not say it."""

from typing import Any

from service.documented import asks_header, with_headers
from service.media.schemas import UploadForm

# The body is read by the use case, after the token was checked: FastAPI's own File() reads first.
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": UploadForm.model_json_schema()}},
    }
}

ETAG = "of this version"
ACCEPTED = with_headers(202, Location="the item")
TAGGED = with_headers(200, ETag=ETAG)
LISTED = with_headers(200, ETag=ETAG, Link='the next page, if there is one: rel="next"')
NOT_CHANGED = with_headers(304, ETag=ETAG)
BYTES = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: with_headers(200, ETag=ETAG, Accept_Ranges="`bytes`")[200] | BYTES,
    206: with_headers(206, ETag=ETAG, Content_Range="the range sent")[206] | BYTES,
    **NOT_CHANGED,
}
SENT_ON = with_headers(307, Location="the object store, for the next five minutes")

_KNOWN = asks_header("If-None-Match", "the version that the client has; 304 if it is current")
IF_NONE_MATCH = {"parameters": [_KNOWN]}
IF_MATCH = {
    "parameters": [
        asks_header("If-Match", "the version that is meant; 412 if there is a newer one"),
    ]
}
# Public items need no bearer token.
ALSO_ANONYMOUS: dict[str, Any] = {
    "security": [{}],
    "parameters": [
        asks_header("Range", "one range of bytes, such as `bytes=0-1023`"),
        asks_header("If-Range", "the version that the client has a part of"),
        _KNOWN,
    ],
}
