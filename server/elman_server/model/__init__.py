"""Step models: spec, file, elements, contexts and outputs."""
