"""Graph surgery: a whole-sequence ONNX graph becomes the graph of one step."""
