"""Client logic without threads, event loops or sockets, shared by the threads' and asyncio
clients."""
