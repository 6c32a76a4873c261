"""The engine: sessions, queues, slots and steps.

Every module is a part of a pure synchronous core (no grpc, no asyncio, no threads, no clock, no
ONNX Runtime), except the asyncio shell around the core: `engine.py`, `step_loop.py`,
`executor.py`, `worker.py` and `parking.py`.
"""
