"""The process: memory, CPU time, threads, limits and end."""
