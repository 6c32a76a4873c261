"""ONNX graphs, read without running them."""
