"""`functional_call` at its older place."""
from treadle.stateless import functional_call

__all__ = ["functional_call"]
