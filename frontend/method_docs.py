"""What the short methods of Tensor do: those that other modules write as a lambda or a table entry."""
from __future__ import annotations

from collections.abc import Mapping

from treadle.tensor import Tensor

DOCS = {
    "backward": "Add the derivatives of this value (weighted by `gradient`, which a tensor of more than one element needs) to the\n"
                "`grad` of the leaves, or only of `inputs`. RuntimeError when it does not require grad, or for a second time without\n"
                "`retain_graph=True`.",
    "contiguous": "The tensor itself when its elements lie in order, else a copy where they do.",
    "cpu": "The tensor in the host's memory: itself when it is there.",
    "data_ptr": "The address of the first element. What the tensor waits for is computed first.",
    "detach_": "Take the tensor off the tape: it becomes a leaf that needs no gradient.",
    "dim": "How many dimensions it has.",
    "element_size": "Bytes of an element.",
    "fill_": "Overwrite every element with a number or a 0-d tensor.",
    "is_floating_point": "Whether its dtype is a floating-point one.",
    "is_inference": "False: tensors made in `inference_mode` are ordinary ones.",
    "is_pinned": "Whether it lies in page-locked memory of the host.",
    "is_same_size": "Whether another tensor has the same shape.",
    "is_shared": "False: memory is not shared between processes.",
    "is_signed": "Whether its dtype has negative numbers.",
    "ndimension": "How many dimensions it has: `dim()`.",
    "nelement": "How many elements it has: `numel()`.",
    "new": "A tensor of this dtype and device, from sizes or from nested lists.",
    "new_empty": "A tensor of the given sizes, of this dtype and device unless told otherwise; its content is zero.",
    "new_empty_strided": "A tensor of the given sizes and strides, of this dtype and device unless told otherwise.",
    "new_full": "A tensor of the given sizes filled with a number, of this dtype and device unless told otherwise.",
    "new_ones": "Ones of the given sizes, of this dtype and device unless told otherwise.",
    "new_tensor": "A tensor from data, of this dtype and device unless told otherwise.",
    "new_zeros": "Zeros of the given sizes, of this dtype and device unless told otherwise.",
    "numel": "How many elements it has.",
    "register_hook": "Call `hook(gradient)` when the gradient of this value is known; a tensor it returns takes the gradient's place.\n"
                     "Returns a handle with `remove()`. RuntimeError for tensors that require no gradient.",
    "register_post_accumulate_grad_hook": "Call `hook(tensor)` once the `grad` of this leaf is complete. Returns a handle with\n"
                                          "`remove()`. RuntimeError for tensors that are no leaves.",
    "requires_grad_": "Set whether this leaf's gradient is wanted. RuntimeError for dtypes that have none, and for what\n"
                      "is no leaf.",
    "share_memory_": "Does nothing: workers copy what they are sent.",
    "size": "The shape, or its entry `dim`.",
    "split": "Views of parts of `split_size` (a number, or a list of them) along `dim`. RuntimeError when a list does not add up.",
    "storage_offset": "How many elements of the storage lie before the first.",
    "stride": "How far apart neighbours along each dimension lie, in elements; or along `dim`.",
    "tolist": "The elements as nested lists of Python numbers.",
    "type_as": "The tensor in the dtype of another.",
    "where": "Its elements where `condition` holds, those of `other` elsewhere.",
    "zero_": "Overwrite every element with 0.",
}


def install(casts: Mapping[str, object]) -> None:
    """Give the methods these docstrings, and the `casts` one each."""
    for name, doc in {**{name: f"The tensor as {dtype}." for name, dtype in casts.items()}, **DOCS}.items():
        method = getattr(Tensor, name)
        if not method.__doc__:
            method.__doc__ = doc
        if getattr(method, "__name__", "").startswith(("<", "_", "method")):
            method.__name__ = name
