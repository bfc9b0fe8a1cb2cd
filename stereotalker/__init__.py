"""StereoTalker: speech and a portrait in, talking-human video out."""

import os as _os
import warnings as _warnings

__version__ = "0.1.0"

# Quiet and offline, before any library reads its settings; and, for busy machines, workers that are not niced to a crawl and threads
# that sleep instead of spinning while they wait (spinning made two jobs of two threads on two cores 20 times slower).
# A value the user has set stays.
for _name, _value in {
    "DO_NOT_TRACK": "true", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "OMP_WAIT_POLICY": "PASSIVE",
    "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "DVC_NO_ANALYTICS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30", "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_LOGGING_LEVEL": "WARNING",
}.items():  # fmt: skip
    _os.environ.setdefault(_name, _value)

# Of peft 0.21 inside transformers 5.23: nothing a user could do about it.
_warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
