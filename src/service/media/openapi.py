"""What OpenAPI says of the media library, where the code of its endpoints does not say it."""

from typing import Any

from service.documented import answers, asks_header, leads_to
from service.media.schemas import UploadForm

# The body is read by the use case, after the token was checked: FastAPI's own File() reads first.
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": UploadForm.model_json_schema()}},
    }
}


ETAG = {"ETag": "of this version"}
_NEXT = {"Link": 'the next page, if there is one: rel="next"'}
_CURSOR = "/next_cursor"
_LINKS = {
    **leads_to("get_media", item_id="/id"),
    **leads_to("change_media", item_id="/id"),
    **leads_to("delete_media", item_id="/id"),
    **leads_to("get_original", item_id="/id", name="/filename"),
    **leads_to("get_thumbnail", item_id="/id"),
}
ACCEPTED = answers(202, {"Location": "the item"}, links=_LINKS)
TAGGED = answers(200, ETAG, links=_LINKS)
LISTED = answers(200, ETAG, _NEXT, links=leads_to("list_media", cursor=_CURSOR))
PUBLIC_LISTED = answers(200, ETAG, _NEXT, links=leads_to("list_public_media", cursor=_CURSOR))
NOT_CHANGED = answers(304, ETAG)
_BYTES = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
CONTENT = {
    **answers(200, {**ETAG, "Accept-Ranges": "`bytes`"}, content=_BYTES),
    **answers(206, {**ETAG, "Content-Range": "the range sent"}, content=_BYTES),
    **NOT_CHANGED,
}
SENT_ON = answers(307, {"Location": "the object store, for the next five minutes"})  # or the link

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
