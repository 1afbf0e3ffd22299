"""Networks by name."""

from aaconv.models.registry import check_model_name, create_model, list_models

__all__ = ["check_model_name", "create_model", "list_models"]
