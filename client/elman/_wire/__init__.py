"""Elements, contexts, outputs, predictions and errors as they are on the wire."""
