"""What a run is shown by: summaries, figures, pages, pictures, dashboards."""
