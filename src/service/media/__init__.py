"""The media library: the reference slice. docs/adopting.md takes it out."""
