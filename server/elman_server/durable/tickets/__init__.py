"""Tickets: sealed snapshots of sessions, held by clients. Any server with the key and the model can
resume a session from its ticket."""
