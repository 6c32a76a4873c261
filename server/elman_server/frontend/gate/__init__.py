"""Limits that each call passes, and how a call ends."""
