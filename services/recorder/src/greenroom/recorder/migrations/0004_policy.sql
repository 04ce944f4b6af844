-- What operators decide about scheduling. The api writes it and publishes the whole of it to the schedulers, whoever
-- changed it: also a change made here by hand is applied within two seconds.
--
-- Columns are named as the fields of greenroom.common.policy, which explains them; what is checked here is what would
-- make the policy unreadable. Tenant `*` stands for each tenant, key `*` for each agent, account, ….

-- One row: how far the policy has come. Readers compare it, writers lock it, so changes come one after the other.
CREATE TABLE policy_revision (
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    revision   bigint NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);

INSERT INTO policy_revision (revision) VALUES (0);

-- A revision is the time of its change in milliseconds, or the next number: so the first change after a restore from
-- a backup is newer than everything that was published before.
CREATE FUNCTION policy_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO policy_revision AS known (revision) VALUES ((extract(epoch FROM clock_timestamp()) * 1000)::bigint)
    ON CONFLICT (singleton) DO UPDATE
    SET revision = greatest(known.revision + 1, excluded.revision), changed_at = now();
    RETURN NULL;
END
$$;

CREATE TABLE policy_limits (
    id               text COLLATE "C" PRIMARY KEY,
    scope            text NOT NULL
        CHECK (scope IN ('tenant', 'agent', 'agent_version', 'carrier', 'number', 'account')),
    tenant           text COLLATE "C" NOT NULL DEFAULT '*',
    key              text COLLATE "C" NOT NULL DEFAULT '*',
    max_sessions     integer CHECK (max_sessions >= 0),
    -- NaN is larger than anything, infinity included.
    max_starts_per_s double precision CHECK (max_starts_per_s > 0 AND max_starts_per_s < 'infinity'),
    at_limit         text NOT NULL DEFAULT 'queue' CHECK (at_limit IN ('queue', 'refuse')),

    CHECK (scope <> 'tenant' OR key = '*')
);

-- A pool without a row has the defaults of its columns.
CREATE TABLE policy_pools (
    name             text COLLATE "C" PRIMARY KEY,
    placement        text NOT NULL DEFAULT 'packed' CHECK (placement IN ('packed', 'spread')),
    baseline         integer NOT NULL DEFAULT 0 CHECK (baseline >= 0),
    minimum          integer NOT NULL DEFAULT 0 CHECK (minimum >= 0),
    maximum          integer NOT NULL DEFAULT 0 CHECK (maximum >= 0),
    max_runners      integer NOT NULL DEFAULT 100 CHECK (max_runners >= 0),
    safety           double precision NOT NULL DEFAULT 1.5 CHECK (safety > 0 AND safety < 'infinity'),
    slots_per_runner integer NOT NULL DEFAULT 1 CHECK (slots_per_runner >= 1),
    cold_starts      integer NOT NULL DEFAULT 0 CHECK (cold_starts >= 0),
    cold_deadline_s  double precision NOT NULL DEFAULT 90 CHECK (cold_deadline_s > 0 AND cold_deadline_s < 'infinity'),
    idle_retire_s    double precision NOT NULL DEFAULT 300 CHECK (idle_retire_s > 0 AND idle_retire_s < 'infinity'),
    cooldown_s       double precision NOT NULL DEFAULT 60 CHECK (cooldown_s > 0 AND cooldown_s < 'infinity'),
    -- [{"days": [0, 1], "begin": "08:00:00", "end": "18:00:00", "zone": "Europe/Berlin", "warm": 40}], 0 is Monday
    schedules        jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(schedules) = 'array'),

    CHECK (minimum <= maximum)
);

CREATE TABLE policy_reservations (
    id        text COLLATE "C" PRIMARY KEY,
    pool      text COLLATE "C" NOT NULL,
    warm      integer NOT NULL CHECK (warm >= 0),
    starts_at timestamptz NOT NULL CHECK (isfinite(starts_at)),
    ends_at   timestamptz NOT NULL CHECK (isfinite(ends_at)),
    note      text NOT NULL DEFAULT '',

    CHECK (starts_at < ends_at)
);

CREATE TABLE policy_rollouts (
    tenant           text COLLATE "C" NOT NULL DEFAULT '*',
    agent            text COLLATE "C" NOT NULL,
    current          integer NOT NULL,
    canary           integer,
    canary_share     double precision NOT NULL DEFAULT 0 CHECK (canary_share BETWEEN 0 AND 1),
    min_starts       integer NOT NULL DEFAULT 10 CHECK (min_starts >= 1),
    max_failure_rate double precision NOT NULL DEFAULT 0.2 CHECK (max_failure_rate BETWEEN 0 AND 1),

    PRIMARY KEY (tenant, agent),
    CHECK (canary <> current)
);

-- Shares of scarce slots, for tenants that have another one than 1.
CREATE TABLE policy_weights (
    tenant text COLLATE "C" PRIMARY KEY,
    weight double precision NOT NULL CHECK (weight > 0 AND weight < 'infinity')
);

-- Before the change, so that everybody locks the revision first and no two can wait for one another.
CREATE TRIGGER policy_changed BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON policy_limits
    FOR EACH STATEMENT EXECUTE FUNCTION policy_changed();
CREATE TRIGGER policy_changed BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON policy_pools
    FOR EACH STATEMENT EXECUTE FUNCTION policy_changed();
CREATE TRIGGER policy_changed BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON policy_reservations
    FOR EACH STATEMENT EXECUTE FUNCTION policy_changed();
CREATE TRIGGER policy_changed BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON policy_rollouts
    FOR EACH STATEMENT EXECUTE FUNCTION policy_changed();
CREATE TRIGGER policy_changed BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON policy_weights
    FOR EACH STATEMENT EXECUTE FUNCTION policy_changed();
