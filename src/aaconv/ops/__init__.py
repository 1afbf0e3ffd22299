"""The operation and its implementations: tensors in, tensors out."""

from aaconv.ops.maps import attention_maps_2d
from aaconv.ops.relative_attention import relative_attention_2d

__all__ = ["attention_maps_2d", "relative_attention_2d"]
