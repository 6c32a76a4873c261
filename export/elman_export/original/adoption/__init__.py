"""Adoption: a ready-made streaming ONNX graph becomes a step model, whatever its layout."""
