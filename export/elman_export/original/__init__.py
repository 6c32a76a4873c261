"""The network that is exported: a torch module or an ONNX graph, read, run and traced."""
