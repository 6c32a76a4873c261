"""Adoption of a ready-made streaming ONNX graph as a step model, in any layout."""
