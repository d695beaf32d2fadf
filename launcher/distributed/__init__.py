"""How ranks and nodes find each other, exchange values, stop together and report failures.

`launch_env` reads the environment in which a rank was started. `rendezvous` (`node_rendezvous`, `rank_rendezvous`)
connects processes after a `health_check`, and `process_group` has their collectives. `signals`, `stop_requests` and
`descendants` stop a run. `exit_codes`, `failure`, `local_run_record` and `logs` report how it went. `watchdog` (for an
agent's ranks) and `group_watchdog` find ranks that make no progress, by their `heartbeat` and `stacks`; `hangs` says
who waits for whom, and `hang_log` records it.
"""
