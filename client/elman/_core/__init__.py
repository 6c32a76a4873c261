"""The SDK without threads, event loops or sockets: sessions, the multiplexer, options. Pure."""
