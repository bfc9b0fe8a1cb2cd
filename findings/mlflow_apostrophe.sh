#!/usr/bin/env bash
# mlflow 3.17.2: a search for a tag whose value holds an apostrophe finds nothing, and says nothing, if the apostrophe is
# escaped as in SQL ('') or with a backslash. Only a value in double quotation marks is found. A value with both kinds of
# marks cannot be searched for at all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check "mlflow-skinny==3.17.2" "sqlalchemy<2.1" "alembic" "setuptools<81"
cat > "$folder/see.py" <<'PYTHON'
import logging
import sys

import mlflow
from mlflow import MlflowClient

logging.getLogger("mlflow").setLevel(logging.ERROR)
client = MlflowClient(tracking_uri=f"sqlite:///{sys.argv[1]}/records.db")
client.create_run("0", tags={"consent": "Mary O'Example"})
found = {}
for how, value in (("doubled", "'Mary O''Example'"), ("backslash", "'Mary O\\'Example'"), ("double marks", '"Mary O\'Example"')):
    found[how] = len(client.search_runs(["0"], f"tags.consent = {value}"))
print(f"mlflow {mlflow.__version__}: runs found: {found}")
sys.exit(found != {"doubled": 0, "backslash": 0, "double marks": 1})
PYTHON
"$folder/venv/bin/python" "$folder/see.py" "$folder"
