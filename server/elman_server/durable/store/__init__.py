"""The state store: owners of named sessions, and the last checkpoints of their states.

`interface.py` defines a store; `opening.py` opens the store at a URL. `redis.py` is for servers on
any machines, `file.py` for the processes of one machine. Modules in this folder know neither gRPC
nor the engine nor the content of a checkpoint.
"""
