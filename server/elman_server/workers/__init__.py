"""Several server processes on one port: `elman serve --workers N`.

The supervisor (`supervisor.py`) starts each as a fresh interpreter (`child.py`), restarts those
that die, and adds up their metrics. It serves nothing itself: no gRPC, no ONNX Runtime.
"""
