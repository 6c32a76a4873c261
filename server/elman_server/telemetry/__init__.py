"""Metrics, their HTTP port, and the log."""
