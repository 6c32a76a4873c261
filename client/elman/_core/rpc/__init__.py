"""A Stream RPC with many sessions, the pool of RPCs, and the channels to servers."""
