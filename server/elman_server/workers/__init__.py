"""Several server processes on one port: `elman serve --workers N`.

The supervisor (`supervisor.py`) starts each worker as a new interpreter (`child.py`), restarts dead
workers, and sums the workers' metrics. The supervisor itself serves no sessions and uses neither
gRPC nor ONNX Runtime.
"""
