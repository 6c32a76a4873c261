"""The layer between gRPC and the engine: RPCs and their sessions."""
