"""The media library: the reference slice. Delete this folder and write your own beside it."""
