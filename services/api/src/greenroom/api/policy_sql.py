"""The SQL of the policy. Whatever changes it locks `policy_revision` first: its triggers do, and so does `LOCK`."""

from typing import Final

REVISION: Final = "SELECT revision FROM policy_revision"

# Makes changes come one after the other, so that a comparison with the revision holds until the commit.
LOCK: Final = "SELECT revision FROM policy_revision FOR UPDATE"

# The whole of it in one statement, which sees one moment. Reservations that are over are history.
POLICY: Final = """
SELECT jsonb_build_object(
    'revision', coalesce((SELECT revision FROM policy_revision), 0),
    'limits', (SELECT coalesce(jsonb_agg(to_jsonb(l) ORDER BY l.id), '[]') FROM policy_limits l),
    'pools', (SELECT coalesce(jsonb_agg(to_jsonb(p) ORDER BY p.name), '[]') FROM policy_pools p),
    'reservations', (
        SELECT coalesce(jsonb_agg(to_jsonb(r) ORDER BY r.starts_at, r.id), '[]')
        FROM policy_reservations r WHERE r.ends_at > now()
    ),
    'rollouts', (SELECT coalesce(jsonb_agg(to_jsonb(v) ORDER BY v.agent, v.tenant), '[]') FROM policy_rollouts v),
    'pins', (
        SELECT coalesce(jsonb_agg(
            n.document || jsonb_build_object('id', n.id, 'uid', n.uid, 'changed_at', n.changed_at) ORDER BY n.id
        ), '[]')
        FROM policy_pins n
    ),
    'weights', (SELECT coalesce(jsonb_object_agg(w.tenant, w.weight), '{}') FROM policy_weights w),
    'suspended', (SELECT coalesce(jsonb_agg(t.name ORDER BY t.name), '[]') FROM tenants t WHERE t.state = 'suspended')
)::text
"""

PUT_LIMIT: Final = """
INSERT INTO policy_limits (id, scope, tenant, key, max_sessions, max_starts_per_s, at_limit)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (id) DO UPDATE
SET (scope, tenant, key, max_sessions, max_starts_per_s, at_limit) =
    (excluded.scope, excluded.tenant, excluded.key, excluded.max_sessions, excluded.max_starts_per_s, excluded.at_limit)
"""
DELETE_LIMIT: Final = "DELETE FROM policy_limits WHERE id = $1"
COUNT_LIMITS: Final = "SELECT count(*) FROM policy_limits"

PUT_POOL: Final = """
INSERT INTO policy_pools (
    name, placement, baseline, minimum, maximum, max_runners, safety, slots_per_runner,
    cold_starts, cold_deadline_s, idle_retire_s, cooldown_s, schedules
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::jsonb)
ON CONFLICT (name) DO UPDATE
SET (placement, baseline, minimum, maximum, max_runners, safety, slots_per_runner,
     cold_starts, cold_deadline_s, idle_retire_s, cooldown_s, schedules) =
    (excluded.placement, excluded.baseline, excluded.minimum, excluded.maximum, excluded.max_runners, excluded.safety,
     excluded.slots_per_runner, excluded.cold_starts, excluded.cold_deadline_s, excluded.idle_retire_s,
     excluded.cooldown_s, excluded.schedules)
"""
DELETE_POOL: Final = "DELETE FROM policy_pools WHERE name = $1"
COUNT_POOLS: Final = "SELECT count(*) FROM policy_pools"

ADD_RESERVATION: Final = """
INSERT INTO policy_reservations (id, pool, warm, starts_at, ends_at, note) VALUES ($1, $2, $3, $4, $5, $6)
"""
DELETE_RESERVATION: Final = "DELETE FROM policy_reservations WHERE id = $1"
COUNT_RESERVATIONS: Final = "SELECT count(*) FROM policy_reservations WHERE ends_at > now()"

PUT_ROLLOUT: Final = """
INSERT INTO policy_rollouts (tenant, agent, current, canary, canary_share, min_starts, max_failure_rate)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (tenant, agent) DO UPDATE
SET (current, canary, canary_share, min_starts, max_failure_rate) =
    (excluded.current, excluded.canary, excluded.canary_share, excluded.min_starts, excluded.max_failure_rate)
"""
DELETE_ROLLOUT: Final = "DELETE FROM policy_rollouts WHERE tenant = $1 AND agent = $2"
COUNT_ROLLOUTS: Final = "SELECT count(*) FROM policy_rollouts"

# The uid stays: what was made under this name goes on.
PUT_PIN: Final = """
INSERT INTO policy_pins (id, uid, changed_at, document) VALUES ($1, $2, $3, $4::jsonb)
ON CONFLICT (id) DO UPDATE SET (changed_at, document) = (excluded.changed_at, excluded.document)
"""
DELETE_PIN: Final = "DELETE FROM policy_pins WHERE id = $1"
COUNT_PINS: Final = "SELECT count(*) FROM policy_pins"

PUT_WEIGHT: Final = """
INSERT INTO policy_weights (tenant, weight) VALUES ($1, $2)
ON CONFLICT (tenant) DO UPDATE SET weight = excluded.weight
"""
DELETE_WEIGHT: Final = "DELETE FROM policy_weights WHERE tenant = $1"
COUNT_WEIGHTS: Final = "SELECT count(*) FROM policy_weights"
