"""Networks by name. Importing this makes them known to ``timm.create_model``, where timm is installed."""

from aaconv.models.registry import check_model_name, create_model, is_detector, list_models

list_models()  # which registers them

__all__ = ["check_model_name", "create_model", "is_detector", "list_models"]
