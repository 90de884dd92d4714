"""Moving values between devices."""
from __future__ import annotations

from treadle.ir.op import Field, Kind, declare
from treadle.ir.types import tensor_type

declare("to_device", Kind.COMPOSITE, "x", "device", field=Field.ANALYTIC,
        type_rule=lambda t, device: tensor_type(t[0].shape, t[0].dtype, device),
        reference=lambda x, device: x.copy(), decompose=lambda b, x, device: b.copy(x),
        vjp=(lambda b, g, x_type: b.to_device(g, x_type.device),),
        samples=[(((3, 4),), ("cpu",))], onnx="Identity", doc="The same elements on another device.")
