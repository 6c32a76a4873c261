"""The sessions of one RPC, apart from the wire and the transport."""
