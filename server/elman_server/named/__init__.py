"""Named sessions: which of them this server has, and what becomes of their checkpoints.

`keeper.py` holds their claims in the state store and saves them behind the step; `holding.py` is
one of them. Nothing here knows gRPC or what is in a checkpoint.
"""
