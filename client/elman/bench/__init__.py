"""Load generation and measurement for servers, used by `elman bench` and the benchmarks.

Frames are packed and read with numpy, without work for each element, like a load generator in a
faster language. The measurement then shows the server and not the client.
"""
