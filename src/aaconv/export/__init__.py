"""Networks as files that run elsewhere: PyTorch's exported programs, ONNX, ExecuTorch."""

from aaconv.export.export import Exported, export_checkpoint, export_model
from aaconv.export.formats import FORMATS

__all__ = ["FORMATS", "Exported", "export_checkpoint", "export_model"]
