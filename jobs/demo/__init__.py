"""The demonstration that needs no download: its text, its questions and its model."""
