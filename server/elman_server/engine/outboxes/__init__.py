"""Outboxes: predictions and messages on their way to a session's caller."""
