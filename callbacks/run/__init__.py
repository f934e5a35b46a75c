"""The folder, records, settings and processes of a run."""
