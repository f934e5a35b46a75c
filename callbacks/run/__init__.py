"""A run on disk: its folder, records, settings and processes."""
