"""Model loading: first in a child process, then in the server.

A model file is untrusted. Reading the file, optimizing its graph and running its first steps may
take any time and memory, or hit a bug in a native library. So a child process does all this work
within limits and answers with the results. Only then the server opens the graph, from exactly the
bytes that the child ran (ADR 16).

`Loader` is the server's side; `python -m elman_server.serving.loading` is the child's side.
"""
