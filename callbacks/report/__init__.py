"""Reports of a run: summaries, figures, pages, pictures and dashboards."""
