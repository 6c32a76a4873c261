"""The state store: who owns a named session, and the last checkpoint of its state.

`interface.py` says what a store does; `opening.py` makes one of a URL. `redis.py` is for servers on
any machines, `file.py` for processes of one. Nothing here knows gRPC, the engine or what is in a
checkpoint.
"""
