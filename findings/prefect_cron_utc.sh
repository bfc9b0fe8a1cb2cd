#!/usr/bin/env bash
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check prefect==3.9.1
cd "$folder"
# On a machine in New York, "0 20 * * *" without a time zone is scheduled at 20:00 UTC, which is 15:00 or 16:00 there.
# With timezone="America/New_York" it is 20:00 local time, on both sides of the change to winter time.
TZ=America/New_York "$folder/env/bin/python" - <<'PY'
import asyncio
from datetime import datetime, timezone

import prefect
from prefect.server.schemas.schedules import CronSchedule

start = datetime(2026, 10, 31, 12, tzinfo=timezone.utc)


def hours(zone):
    dates = asyncio.run(CronSchedule(cron="0 20 * * *", timezone=zone).get_dates(3, start=start))
    return [(date.hour, date.utcoffset().total_seconds() / 3600) for date in dates]


plain, zoned = hours(None), hours("America/New_York")
print("prefect", prefect.__version__, "without a zone:", plain, "with one:", zoned)
assert plain == [(20, 0.0)] * 3
assert zoned == [(20, -4.0), (20, -5.0), (20, -5.0)]
PY
echo "seen: without a time zone a cron schedule is in UTC"
