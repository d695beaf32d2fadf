"""A trace of the steps for Perfetto or chrome://tracing, and a table of the dearest operations."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config.atomic_files import write_aside
from launcher.config.errors import shown

_OPERATIONS = 10


@contextmanager
def traced(file: Path | None, device: str, console: Console) -> Iterator[None]:
    """Profile what runs inside the context, and write the trace to a file. None: do nothing."""
    if file is None:
        yield
        return
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if device == "cuda" else []
    with torch.profiler.profile(activities=kinds) as profile:
        yield
    with write_aside(file) as aside:
        profile.export_chrome_trace(str(aside))
    _show(profile, device, console)
    console.print(f"trace: {escape(shown(str(file)))} (open it in ui.perfetto.dev)", highlight=False, soft_wrap=True)


def _show(profile: torch.profiler.profile, device: str, console: Console) -> None:
    """Print the operations with the most time of their own, without that of the operations that they call."""
    on_device = device == "cuda"
    averages = profile.key_averages()
    times = [one.self_device_time_total if on_device else one.self_cpu_time_total for one in averages]
    total = max(sum(times), 1e-9)
    table = Table("operation", "calls", f"ms on {device}", "share", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    dearest = sorted(zip(times, averages, strict=True), key=lambda pair: -pair[0])[:_OPERATIONS]
    for time, one in dearest:
        table.add_row(escape(one.key[:40]), f"{one.count:,}", f"{time / 1000:.1f}", f"{100 * time / total:.0f}%")
    console.print(table)
