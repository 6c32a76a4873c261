"""ONNX Runtime without its telemetry: the only import of `onnxruntime` in all packages, benchmarks
and tests.

ONNX Runtime reads `ORT_DISABLE_TELEMETRY` during its import. Without the variable, the import alone
writes a device id and queues an event with the program's path below the user's home;
`disable_telemetry_events` comes too late for both. A value set by the user stays.
"""

import os

_SWITCH = "ORT_DISABLE_TELEMETRY"

# An empty value counts as unset, here as in ONNX Runtime. Child processes inherit the variable.
if not os.environ.get(_SWITCH):
    os.environ[_SWITCH] = "1"

import onnxruntime as onnxruntime  # noqa: E402

if os.environ[_SWITCH] != "0":
    # Windows has its own telemetry provider, which ignores environment variables.
    onnxruntime.disable_telemetry_events()
