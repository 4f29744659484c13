"""What can be seen of a run: events, metrics, progress, log lines and the report."""
