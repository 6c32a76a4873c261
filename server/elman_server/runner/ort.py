"""ONNX Runtime without its telemetry: the only import of `onnxruntime` in all packages, benchmarks
and tests.

ONNX Runtime reads `ORT_DISABLE_TELEMETRY` while it is imported. Without it, the import alone writes
a device id and queues an event with the program's path below the user's home;
`disable_telemetry_events` comes too late for both. A value that the user has set stays.
"""

import os

_SWITCH = "ORT_DISABLE_TELEMETRY"

# An empty value counts as none, here as in ONNX Runtime. Child processes inherit it.
if not os.environ.get(_SWITCH):
    os.environ[_SWITCH] = "1"

import onnxruntime as onnxruntime  # noqa: E402

if os.environ[_SWITCH] != "0":
    # Windows has a provider of its own, which knows no environment variable.
    onnxruntime.disable_telemetry_events()
