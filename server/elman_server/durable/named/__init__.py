"""Named sessions: which of them this server has, and what becomes of their checkpoints.

`lease_keeper.py` holds their claims in the state store and `saving.py` saves them behind the step;
`lease.py` is one of them, `rewinding.py` says which tickets may go behind a checkpoint, and
`fence.py` knows until when what they answered may be sent. Nothing here knows gRPC or what is in a
checkpoint.
"""
