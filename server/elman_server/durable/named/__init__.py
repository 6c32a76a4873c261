"""Named sessions of this server, and their checkpoints.

`lease_keeper.py` holds the claims in the state store. `checkpoint_writer.py` saves checkpoints in
the background. `lease.py` is one session's lease. `rewinding.py` decides about tickets older than a
checkpoint. `fence.py` decides until when answers may be sent. Modules in this folder know neither
gRPC nor the content of a checkpoint.
"""
