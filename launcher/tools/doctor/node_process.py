"""The checks of one of several nodes: `python -m launcher.tools.doctor.node_process REQUEST`, by srun or over ssh.

What is found goes to standard output, a line for each finding. Other lines are those of the site.
"""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import NoReturn

from launcher.config.errors import UserError, first_line
from launcher.distributed import output_streams
from launcher.health.finding import Check, Finding
from launcher.launch.node import this_node
from launcher.tools.doctor import machine_checks, node_checks
from launcher.tools.doctor.request import NodeRequest

MARK = "launcher.doctor: "
"""Prefix of the lines with steps and findings."""


def main(arguments: Sequence[str]) -> None:
    """Check this node."""
    options = _options(arguments)
    if options.lifeline:
        threading.Thread(target=_follow_lifeline, name="lifeline", daemon=True).start()
    signal.signal(signal.SIGTERM, _leave)  # so that the ranks are ended
    request = NodeRequest(**json.loads(options.request))
    os.environ.update(request.variables)
    try:
        node = this_node(options, os.environ)
    except UserError as error:
        _say(Check("network", "nodes").failure(first_line(error), "look at the profile's nodes"), "")
        return
    found = machine_checks.found_devices(request)
    others = tuple(host for host in node.hosts if host != node.name)
    for step in machine_checks.all_of(request, found, others):
        _say(step, node.name)
    checks = (
        node_checks.together if len(node.hosts) > 1 else lambda *them: node_checks.alone(them[0], them[1], node.name)
    )
    for step in checks(request, found, node):
        _say(step, "")


def _say(step: str | Finding, host: str) -> None:
    value = {"step": step} if isinstance(step, str) else {**asdict(step), "host": step.host or host}
    print(f"{MARK}{json.dumps(value)}", flush=True)


def _follow_lifeline() -> None:
    """End this process when standard input ends: then whoever started it is gone."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(signum: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signum)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("request", metavar="REQUEST", help="a NodeRequest as JSON")
    parser.add_argument("--node", type=int, default=0, help="the index of this node among the hosts, from 0")
    parser.add_argument("--hosts", default="", help="all hosts, separated by commas (default: those of the Slurm step)")
    parser.add_argument("--lifeline", action="store_true", help="leave when standard input ends")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    output_streams.set_up(lasting=True)
    main(sys.argv[1:])
    output_streams.exit_now(0)
