"""Reading, running and tracing of the network to export: a torch module or an ONNX graph."""
