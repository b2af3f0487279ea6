"""Every number an alert compares with, once, and why it is that number. An installation changes them here.

Room rules: constants only.
"""

from __future__ import annotations

__all__ = [
    "CHECKPOINT_OLD_SECONDS",
    "CONFLICTS_PER_SECOND",
    "CONNECTOR_DOWN",
    "CONNECTOR_JOB",
    "CONNECTOR_SILENT",
    "FAILED_REPORTS",
    "FAILED_WINDOW",
    "FORECAST_SETTLES",
    "KEYS_AWAY",
    "KEYS_AWAY_TIMES",
    "LEFT_ALONE",
    "NEW_FACT_WINDOW",
    "NO_COMMIT_SECONDS",
    "OUTBOX_STILL",
    "PAUSE_PROBED",
    "SETTLE",
    "STRANGERS",
    "SWEEPER_STILL",
    "TEAM_REMEMBERED",
    "UNATTENDED",
    "VERIFICATION_SECONDS",
    "WORKER_DOWN",
    "WORKER_JOB",
]

#: The scrape jobs' names: `job_name` of the worker's and of the connectors' targets.
WORKER_JOB = "dsr-worker"
CONNECTOR_JOB = "dsr-connector"

#: Gauges are counted in the store once per sweep: one missed round must not open and close an alert.
SETTLE = "5m"
#: A request that waits for its portal this long has used a quarter of the month of GDPR Art. 12(3); after that the systems'
#: own patience no longer fits in.
VERIFICATION_SECONDS = 7 * 86400
#: An escalated order or a due request is somebody's work of the day, not of the minute: told again only when a working day
#: has passed over it.
UNATTENDED = "1d"
#: One failed report is escalated by itself; three within the window say that the system is at fault and not the request.
FAILED_REPORTS = 3
FAILED_WINDOW = "1h"
#: Half a day with orders sent and no report at all. The registry's patience (3 days by default) watches each order; this
#: watches the connector, so that it is mended before patience ends.
CONNECTOR_SILENT = "12h"
#: A pace is measured while it is used: a slow quarter of an hour is no forecast.
FORECAST_SETTLES = "30m"
#: A probe under way reads as no pause; it is over within the longest time that one call may take.
PAUSE_PROBED = "15m"
#: More than a vendor's usual disturbance, and less than the registry's patience by far.
LEFT_ALONE = "2h"
#: Longer than a restart or a rolling update of one process.
CONNECTOR_DOWN = "10m"
WORKER_DOWN = "5m"
#: How long something that happened once stays visible as an alert: long enough for the next working morning.
NEW_FACT_WINDOW = "1d"
#: A connector that starts before its key is trusted is refused a few times; whoever tries keys or floods is refused more often.
STRANGERS = 20
#: Checkpoints are made once a day: by then one has failed and the next one as well.
CHECKPOINT_OLD_SECONDS = 2 * 86400
#: A connector asks again every half minute at the latest: more than ten times in a quarter of an hour is no worker's restart.
KEYS_AWAY = "15m"
KEYS_AWAY_TIMES = 10
#: The commit timer runs every few seconds; 10 minutes without progress while records wait is a stuck batch or a loop of
#: restarts, and still far from the 7 days that `dsr.requests.v1` keeps its records.
NO_COMMIT_SECONDS = 600
#: Two workers meet on a row when an operator and a report do, so conflicts are rare; one a second, for a quarter of an hour,
#: means that two workers own the same partition or that one request gets everything.
CONFLICTS_PER_SECOND = 1
#: The outbox empties within one batch. With the broker away it stays; the sweep retries well within this time.
OUTBOX_STILL = "15m"
#: The sweeper runs every few seconds to minutes; without it no timer of any request fires.
SWEEPER_STILL = "30m"
#: Longer than the restart of all workers; after a change of the registry both names of a team are known for as long.
TEAM_REMEMBERED = "1h"
