"""The engine: sessions, their queues and slots, and the steps that serve them.

Every module except `engine.py` is a pure synchronous core: no grpc, no asyncio, no threads, no
clock, no ONNX Runtime. `engine.py` is the asyncio shell around the core.
"""
