"""A student, or any plain model, as an ONNX file that gives the same logits."""

from .export import OnnxFile, export_onnx

__all__ = ['OnnxFile', 'export_onnx']
