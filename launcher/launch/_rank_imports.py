"""Import of the modules that a recipe's ranks need. The server from which ranks are forked imports this module last.

A module that cannot be imported here is left to the ranks, which report the error. If a module uses a device, the
server begins again without these modules: no forked process could use the device.
"""

import importlib
import os
import sys
from contextlib import suppress

import torch

from launcher.config import env_vars

_CUDA_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Variable that makes torch.cuda.is_available() look for devices without using one."""

with env_vars.temporarily({_CUDA_CHECK: "1"}):
    for _name in os.environ.pop(env_vars.RANK_IMPORTS, "").split():
        with suppress(Exception):
            importlib.import_module(_name)
if torch.cuda.is_initialized() or torch.xpu.is_initialized():
    os.execv(sys.executable, sys.orig_argv)
