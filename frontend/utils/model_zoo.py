"""`utils.model_zoo`: the older name of `treadle.hub`'s downloads."""
from treadle.hub import load_state_dict_from_url as load_url

__all__ = ["load_url"]
