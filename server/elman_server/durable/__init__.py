"""Sessions that outlive their server: tickets, the state store, named sessions."""
