"""ONNX graphs, read without being run."""
