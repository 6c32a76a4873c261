"""Recovery of sessions after the loss of an RPC: retries, repeated pushes, giving up."""
