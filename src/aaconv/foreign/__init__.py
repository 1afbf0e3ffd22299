"""Weights of other people's layers in ours."""

from aaconv.foreign.convert import from_module, from_state_dict
from aaconv.foreign.kinds import KINDS

__all__ = ["KINDS", "from_module", "from_state_dict"]
