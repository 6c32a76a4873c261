"""Loads for a server, and what it makes of them: what `elman bench` and the benchmarks run.

Frames are packed and read with numpy, without work for each element, as a load generator in a
faster language would: so that it is the server that is measured.
"""
