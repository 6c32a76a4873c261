"""Tickets: snapshots of sessions, sealed, so that clients may hold them and any server with the
key and the model may go on from them."""
