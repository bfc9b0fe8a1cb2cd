"""Settings of other libraries that the command line and the workers need before those libraries are imported.

Importing `stereotalker` sets nothing. The command line (stereotalker.cli) and the render workers
(stereotalker.tasks.worker) call `set_library_defaults` first. A value that the user has set is kept.
"""

from __future__ import annotations

import os
import warnings

LIBRARY_DEFAULTS = {
    # No usage statistics are sent.
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Threads that wait sleep: two jobs of two spinning threads on two cores were 20 times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    # Ray lowers its workers' priority; on a machine with other jobs they would hardly run.
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A tracking server that cannot be reached costs seconds, not the default of minutes, and nothing is ever unpickled.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # Flow runs whose process has died are recognized by their missing heartbeat.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # Our own server forgets flow runs after 90 days. MLflow keeps the records of batches.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    # Child processes do not import modules that happen to lie in the working folder, such as a random.py.
    "PYTHONSAFEPATH": "1",
    # Only what a user can act on is printed.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "PREFECT_LOGGING_LEVEL": "WARNING",
}


_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def set_library_defaults() -> None:
    """Set every variable of LIBRARY_DEFAULTS that is not set yet, and leave this machine out of proxies.

    Child processes inherit both.
    """
    for name, value in LIBRARY_DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in ("NO_PROXY", "no_proxy"):  # servers on this machine are not behind the studio's proxy
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join([*hosts, *(host for host in _LOOPBACK if host not in hosts)])
    # A user can do nothing about this warning of peft 0.21 inside transformers 5.23.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
