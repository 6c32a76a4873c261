"""What a step model is: its spec, its file, its elements and outputs."""
