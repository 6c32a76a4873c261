"""Recovery of sessions after the loss of their RPC: retries, repeated pushes, giving up."""
