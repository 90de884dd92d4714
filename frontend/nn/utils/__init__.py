"""`treadle.nn.utils`: clipping gradients, and parameters as one vector."""
from treadle.nn.utils import parametrizations, parametrize, prune, rnn, stateless
from treadle.nn.utils.clip_grad import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
from treadle.nn.utils.convert_parameters import parameters_to_vector, vector_to_parameters
from treadle.nn.utils.fusion import (
    fuse_conv_bn_eval,
    fuse_conv_bn_weights,
    fuse_linear_bn_eval,
    fuse_linear_bn_weights,
    skip_init,
)
from treadle.nn.utils.older_norms import remove_spectral_norm, remove_weight_norm, spectral_norm, weight_norm
from treadle.nn.utils.rnn import pad_sequence, unpad_sequence

__all__ = [
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "fuse_conv_bn_eval",
    "fuse_conv_bn_weights",
    "fuse_linear_bn_eval",
    "fuse_linear_bn_weights",
    "get_total_norm",
    "pad_sequence",
    "parameters_to_vector",
    "parametrizations",
    "parametrize",
    "prune",
    "remove_spectral_norm",
    "remove_weight_norm",
    "skip_init",
    "spectral_norm",
    "stateless",
    "unpad_sequence",
    "vector_to_parameters",
    "weight_norm",
]
