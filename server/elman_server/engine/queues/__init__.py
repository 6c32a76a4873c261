"""Queues: elements waiting for a step, and sessions waiting for a job."""
