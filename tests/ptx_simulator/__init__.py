"""A GPU made of numpy: runs PTX text, finds races, bad accesses and hangs; see README.md."""

from ptx_simulator.faults import (
    AsyncCopyFault,
    BarrierFault,
    Fault,
    HangFault,
    LaneFault,
    LaunchFault,
    MisalignedFault,
    OutOfBoundsFault,
    PtxError,
    RaceFault,
    TrapFault,
    UninitialisedFault,
)
from ptx_simulator.simulator import Simulator, parsed
