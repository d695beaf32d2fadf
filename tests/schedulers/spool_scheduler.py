"""A user's own scheduler: its queue is a folder of files, from which an operator starts the jobs."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher import schedulers
from launcher.config.errors import UserError
from launcher.config.types import SchedulerConfig
from launcher.schedulers import JobRefused, JobRequest, JobState, RenderedJob, SubmittedJob


class Config(SchedulerConfig):
    """A spool folder and the hosts that serve it."""

    kind: Literal["own.spool"] = "own.spool"
    folder: str
    """Folder of the queue."""
    hosts: list[str]
    """Host names."""

    def check_nodes(self, minimum: int, maximum: int) -> str | None:
        return None if maximum <= len(self.hosts) else f"{maximum} is more than the spool's {len(self.hosts)} hosts"


@dataclass(frozen=True, kw_only=True)
class SpoolJob(RenderedJob):
    run: Path


class Scheduler(schedulers.Scheduler[SpoolJob]):
    config: Config

    def render(self, request: JobRequest) -> SpoolJob:
        name = f"spooled-{request.token}"
        environment = [f"{name}={value}" for name, value in request.variables(name).items()]
        hosts = self.config.hosts[: request.cluster.nodes[1]]
        lines = [f"cd {shlex.quote(str(request.working_directory))}"]
        for i, host in enumerate(hosts):
            agent = [sys.executable, "-m", "launcher.launch.node", str(request.run_folder)]
            agent += ["--node", str(i), "--hosts", ",".join(hosts)]
            lines.append(shlex.join(["on", host, "env", *environment, *agent]))
        return SpoolJob("\n".join(lines) + "\n", name=name, run=request.run_folder)

    def validate(self, job: SpoolJob) -> str:
        if not Path(self.config.folder).is_dir():
            raise JobRefused(f"{self.config.folder}: no spool folder")
        return f"spool: {len(self._files())} jobs are before this one"

    def submit(self, job: SpoolJob) -> SubmittedJob:
        id = f"spool-{len(self._files()) + 1}"
        self._write(id, "waiting", job.run, job.text)
        return SubmittedJob(id)

    def state(self, id: str, run: Path) -> JobState | None:
        phase, folder, _ = self._read(id)
        if folder != str(run.absolute()):
            return None
        if phase in ("cancelled", "ended"):
            return JobState(id, "ended", ended="cancelled" if phase == "cancelled" else "")
        return JobState(id, "running" if phase == "running" else "waiting", nodes=",".join(self.config.hosts))

    def cancel(self, ids: Sequence[str]) -> None:
        for id in ids:
            phase, run, text = self._read(id)
            if not phase:
                raise UserError(f"{id}: no such job in {self.config.folder}")
            self._write(id, "cancelled", Path(run), text)

    def _files(self) -> list[Path]:
        return sorted(Path(self.config.folder).glob("spool-*.json"))

    def _read(self, id: str) -> tuple[str, str, str]:
        """Phase, run folder and text of a job; empty for an unknown one."""
        file = Path(self.config.folder) / f"{id}.json"
        job = json.loads(file.read_text()) if file.is_file() else {}
        return job.get("phase", ""), job.get("run", ""), job.get("text", "")

    def _write(self, id: str, phase: str, run: Path, text: str) -> None:
        job = {"phase": phase, "run": str(run), "text": text}
        (Path(self.config.folder) / f"{id}.json").write_text(json.dumps(job))
