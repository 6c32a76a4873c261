"""The engine: sessions, queues, slots and steps.

Every module except `engine.py` is a pure synchronous core: no grpc, no asyncio, no threads, no
clock, no ONNX Runtime. `engine.py` is the asyncio shell around the core.
"""
