"""The library, for people."""

from service.pages import Application

# Previews that are not public are fetched with the owner's token, and shown from memory.
LIBRARY = Application(
    "library",
    "Library",
    "Upload, look, publish; and what all have made public",
    {"img_src": "'self' blob:"},
    lambda settings: {"largest": int(settings.max_content_length)},
)
