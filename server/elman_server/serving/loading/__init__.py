"""Loading a model: in a process of its own first, in the server when it has proved harmless.

A model file may be anything. Reading it, optimizing its graph and running its first steps may take
any time and memory, or run into a bug of a native library. So a child process does all of that
within limits, and answers with what a server needs; only then does the server itself open the
graph, from the very bytes that the child ran (ADR 16).

`Loader` is the server's side of it; `python -m elman_server.serving.loading` the other.
"""
