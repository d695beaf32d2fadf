"""Whether a node has the devices that its ranks are to train on, tried in a process of its own: a driver may hang."""

import signal
import subprocess
import sys

from launcher.distributed.signals import SIGNALS

SECONDS = 40.0
"""For torch to be read from a shared disk and the first device to answer, and 2 more for each device."""
_MARK = "launcher.node_devices: "
"""Begins the line that matters: a site may print its own."""


def unfit(device: str, count: int) -> str | None:
    """What is wrong with the `count` devices of this kind on this host; None: each computes, or it is the CPU's."""
    if device == "cpu":
        return None
    child, seconds = [sys.executable, "-P", "-c", _TRY, device, str(count), _MARK], SECONDS + 2 * count
    try:
        done = subprocess.run(child, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"its {device} devices have not answered in {seconds:.0f} s"
    lines = done.stdout.decode(errors="replace").splitlines()
    wrong = next((line.removeprefix(_MARK) for line in lines if line.startswith(_MARK)), None)
    ended_with_this_process = -done.returncode in (*SIGNALS, signal.SIGKILL)  # what comes next reports it
    if wrong is None and done.returncode and not ended_with_this_process:
        return f"its {device} devices could not be tried (exit code {done.returncode})"
    return wrong


_TRY = """
import sys, torch
device, count, mark = sys.argv[1], int(sys.argv[2]), sys.argv[3]
found = torch.accelerator.current_accelerator(check_available=True)
if found is None or found.type != device:
    print(f"{mark}has no {device} device that torch can use")
elif torch.accelerator.device_count() < count:
    print(f"{mark}has {torch.accelerator.device_count()} of the {count} {device} devices that its ranks need")
else:
    for index in range(count):
        try:
            torch.ones(2, device=f"{device}:{index}").sum().item()
        except RuntimeError as error:
            print(f"{mark}its {device}:{index} does not compute: {str(error).strip().splitlines()[0][:200]}")
            break
"""
