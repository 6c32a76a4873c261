"""Elements, contexts, outputs, predictions and errors in the format of the wire."""
