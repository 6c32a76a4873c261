"""Row-independent int8 quantization of step models, for `elman export --quantize int8`."""

from elman_export.quantization.quantize import quantize

__all__ = ["quantize"]
