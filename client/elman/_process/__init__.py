"""The process and the event loop of a client."""
