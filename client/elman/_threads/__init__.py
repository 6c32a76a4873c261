"""The SDK for threads, around `elman._core`."""
