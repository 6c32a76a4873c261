"""Sessions with a life beyond their server: tickets, the state store, named sessions."""
