"""Which migrations of the database this version needs: services that don't own the schema ask whether it is there.

The files are the recorder's (`greenroom migrate` applies them); a test holds this list to them.
"""

from typing import Final

MIGRATIONS: Final = (
    "0001_sessions",
    "0002_recordings",
    "0003_keys_and_agents",
    "0004_policy",
    "0005_pins",
    "0006_numbers",
    "0007_usage",
    "0008_recording_choice",
    "0009_retention",
    "0010_webhooks",
    "0011_transcripts",
    "0012_event_partitions",
    "0013_tenants_and_indices",
    "0014_notices",
    "0016_post_call_again",
    "0017_agent_settings",
    "0018_usage_days",
    "0019_daily_rooms",
    "0021_sessions_of_user",
)
