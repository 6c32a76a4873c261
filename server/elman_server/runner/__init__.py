"""Runners: the model's steps, the sessions' states, and measurements of the model's behaviour."""
