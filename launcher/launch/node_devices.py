"""Whether a node has the devices that its ranks are to train on, tried in a process of its own: a driver may hang."""

import subprocess
import sys

SECONDS = 45.0
"""For a device to answer: torch itself may take half of it to be read from a shared disk."""


def unfit(device: str, count: int) -> str | None:
    """What is wrong with the `count` devices of this kind on this host; None: each computes, or it is the CPU's."""
    if device == "cpu":
        return None
    child = [sys.executable, "-P", "-c", _TRY, device, str(count)]
    try:
        done = subprocess.run(child, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"its {device} devices have not answered in {SECONDS:.0f} s"
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    if done.returncode == 0 and not lines:
        return None
    return lines[-1] if lines else f"its {device} devices could not be tried (exit code {done.returncode})"


_TRY = """
import sys, torch
device, count = sys.argv[1], int(sys.argv[2])
found = torch.accelerator.current_accelerator(check_available=True)
if found is None or found.type != device:
    print(f"has no {device} device that torch can use")
elif torch.accelerator.device_count() < count:
    print(f"has {torch.accelerator.device_count()} of the {count} {device} devices that its ranks need")
else:
    for index in range(count):
        try:
            torch.ones(2, device=f"{device}:{index}").sum().item()
        except RuntimeError as error:
            print(f"its {device}:{index} does not compute: {str(error).strip().splitlines()[0][:200]}")
            break
"""
