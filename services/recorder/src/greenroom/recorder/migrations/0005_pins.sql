-- Pinned sessions: so many of an agent are kept running. A part of the policy: see 0004_policy.sql for how a change of
-- it comes to the schedulers.

CREATE TABLE policy_pins (
    id         text COLLATE "C" PRIMARY KEY,
    -- Tells a pin from former ones of its name; the ids of its sessions follow from it.
    uid        text NOT NULL UNIQUE,
    changed_at timestamptz NOT NULL DEFAULT now() CHECK (isfinite(changed_at)),
    -- The other fields of greenroom.common.pins.Pin, by their names.
    document   jsonb NOT NULL CHECK (jsonb_typeof(document) = 'object')
);

CREATE TRIGGER policy_changed BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON policy_pins
    FOR EACH STATEMENT EXECUTE FUNCTION policy_changed();
