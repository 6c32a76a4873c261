"""Between the wire and the engine: one RPC and its sessions."""
