-- Tenants: what is known of those that own sessions, keys and all the rest, and whether they may have new sessions.
--
-- A tenant needs no row to be one. Whoever is given a key or asks for a session gets a row here by that; an
-- administrator may also make one before, over /v1/tenants. No other table refers to this one: what belongs to a tenant
-- names it, as it always has.
CREATE TABLE tenants (
    name         text COLLATE "C" PRIMARY KEY,
    display_name text NOT NULL DEFAULT '',
    -- Suspended: its new sessions are refused; those it has go on.
    state        text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'suspended')),
    -- For administrators, as is `metadata`: for what other systems call it.
    note         text NOT NULL DEFAULT '',
    metadata     jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    -- Since when it is in its state.
    state_since  timestamptz NOT NULL DEFAULT now()
);

-- They travel with every version of the policy.
CREATE INDEX tenants_suspended ON tenants (name) WHERE state = 'suspended';

-- All that any table knows already, since the first thing that is known of them. `*` stands for each and is none.
INSERT INTO tenants (name, created_at)
SELECT tenant, coalesce(min(at), now())
FROM (
    SELECT tenant, min(requested_at) AS at FROM sessions GROUP BY tenant
    UNION ALL SELECT tenant, min(created_at) FROM api_keys GROUP BY tenant
    UNION ALL SELECT tenant, min(created_at) FROM agents GROUP BY tenant
    UNION ALL SELECT tenant, min(created_at) FROM numbers GROUP BY tenant
    UNION ALL SELECT tenant, min(created_at) FROM webhook_endpoints GROUP BY tenant
    UNION ALL SELECT tenant, min(at) FROM usage GROUP BY tenant
    UNION ALL SELECT tenant, min(at) FROM audit GROUP BY tenant
    UNION ALL SELECT tenant, min(since) FROM retention_holds GROUP BY tenant
    UNION ALL SELECT tenant, min(since) FROM session_holds GROUP BY tenant
    UNION ALL SELECT tenant, NULL FROM retention_rules
    UNION ALL SELECT tenant, NULL FROM prices
    UNION ALL SELECT tenant, NULL FROM budgets
    UNION ALL SELECT tenant, NULL FROM policy_limits
    UNION ALL SELECT tenant, NULL FROM policy_rollouts
    UNION ALL SELECT tenant, NULL FROM policy_weights
    UNION ALL SELECT document ->> 'tenant', NULL FROM policy_pins
) AS known
WHERE tenant <> '*'
GROUP BY tenant
ON CONFLICT (name) DO NOTHING;

-- From here on: a row at the first key, or the first session. As a rule all are there, and nothing is written. In the
-- order of names, so that no two who store sessions wait for one another.
CREATE FUNCTION tenants_known() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tenants (name)
    SELECT DISTINCT tenant FROM stored
    WHERE tenant <> '*' AND NOT EXISTS (SELECT FROM tenants WHERE name = stored.tenant)
    ORDER BY tenant
    ON CONFLICT (name) DO NOTHING;
    RETURN NULL;
END
$$;

CREATE TRIGGER tenants_known AFTER INSERT ON sessions
    REFERENCING NEW TABLE AS stored FOR EACH STATEMENT EXECUTE FUNCTION tenants_known();
CREATE TRIGGER tenants_known AFTER INSERT ON api_keys
    REFERENCING NEW TABLE AS stored FOR EACH STATEMENT EXECUTE FUNCTION tenants_known();

-- Who is suspended is a part of the policy, which every api and scheduler has within two seconds (0004_policy.sql).
-- Only that: a tenant that appears changes nothing about it.
CREATE TRIGGER policy_changed AFTER INSERT ON tenants
    FOR EACH ROW WHEN (NEW.state = 'suspended') EXECUTE FUNCTION policy_changed();
CREATE TRIGGER policy_changed_state AFTER UPDATE OF state ON tenants
    FOR EACH ROW WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION policy_changed();
CREATE TRIGGER policy_changed_gone AFTER DELETE ON tenants
    FOR EACH ROW WHEN (OLD.state = 'suspended') EXECUTE FUNCTION policy_changed();

-- ---------------------------------------------------------------------------------------------------------------------
-- Indices that queries over a year of calls were found to lack (docs/adr/0019-plans-are-golden-files.md)

-- What the daily run has deleted is counted by who did it and since when.
CREATE INDEX audit_of_actor ON audit (actor, at);

-- Those erased lately are looked for each time something is erased.
CREATE INDEX tombstones_by_day ON tombstones (erased_on);
