"""Named sessions of this server, and their checkpoints.

`lease_keeper.py` runs the tasks which keep the sessions: renewals, snapshots, saves. `claimer.py`
claims sessions, `lease_table.py` has the leases by key, and `lease.py` is one session's lease.
`checkpoint_writer.py` saves checkpoints in the background. `store_health.py` records whether the
store can be used. `fence.py` decides until when answers may be sent, and `rewinding.py` decides
about tickets older than a checkpoint. Modules in this folder know neither gRPC nor the content of a
checkpoint.
"""
