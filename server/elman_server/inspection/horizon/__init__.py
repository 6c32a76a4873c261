"""The horizon: how far back a network remembers, measured on its step model."""
