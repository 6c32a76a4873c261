"""Jobs: work for the model, such as a step, an initialization or a capture."""
