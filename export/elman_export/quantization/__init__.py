"""Row-independent int8 quantization of step models: what `elman export --quantize int8` does."""

from elman_export.quantization.quantize import quantize

__all__ = ["quantize"]
