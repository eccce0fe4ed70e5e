"""What operators see besides metrics: logs without secrets, traces, TCP."""
