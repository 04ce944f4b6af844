-- What was done to what is kept (audit), how long it is kept (retention), and what must not be deleted (holds).
--
-- Tenant and agent `*` stand for each. Texts that are ids sort by byte, as everywhere.

-- Who did what to whom. Nothing in it is ever changed; of a session it has the id, and nothing of what was in it.
CREATE TABLE audit (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- `key:{id of the API key}`, or the name of a service.
    actor   text NOT NULL,
    -- For example `session.erased`; greenroom.common.audit lists them.
    action  text NOT NULL,
    tenant  text COLLATE "C" NOT NULL,
    -- A session's id, or `{tenant}/{agent}`.
    subject text COLLATE "C" NOT NULL,
    detail  jsonb NOT NULL DEFAULT '{}'
);

CREATE INDEX audit_of_subject ON audit (subject, id);
CREATE INDEX audit_of_tenant ON audit (tenant, id);

CREATE FUNCTION audit_stands() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'what is in the table audit is never changed' USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER audit_stands BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_stands();

-- For how many days after a session's end what is kept of it; NULL: for ever. The most specific rule holds, as a whole:
-- of the tenant's agent, of the tenant, of the agent, of all. Without a rule everything is kept.
CREATE TABLE retention_rules (
    tenant          text COLLATE "C" NOT NULL DEFAULT '*',
    agent           text COLLATE "C" NOT NULL DEFAULT '*',
    recordings_days integer CHECK (recordings_days >= 0),
    events_days     integer CHECK (events_days >= 0),
    sessions_days   integer CHECK (sessions_days >= 0),
    changed_at      timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (tenant, agent)
);

-- Legal holds: nothing of these is deleted, whatever a rule or a request says.
CREATE TABLE retention_holds (
    tenant text COLLATE "C" NOT NULL DEFAULT '*',
    agent  text COLLATE "C" NOT NULL DEFAULT '*',
    reason text NOT NULL DEFAULT '',
    since  timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (tenant, agent)
);

CREATE TABLE session_holds (
    session_id text COLLATE "C" PRIMARY KEY,
    tenant     text COLLATE "C" NOT NULL,
    reason     text NOT NULL DEFAULT '',
    since      timestamptz NOT NULL DEFAULT now()
);

-- What is to be deleted, until it is: asked for by somebody, or due by a rule.
CREATE TABLE erasures (
    session_id   text COLLATE "C" NOT NULL,
    -- All of it, or one part.
    what         text NOT NULL CHECK (what IN ('session', 'recording', 'events')),
    tenant       text COLLATE "C" NOT NULL,
    agent        text COLLATE "C" NOT NULL,
    -- The day of the session's request in UTC, by which its files lie.
    day          date NOT NULL,
    -- As `actor` of audit.
    requested_by text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now(),
    -- From here on it can't be stopped by a hold any more.
    begun_at     timestamptz,
    -- Why it isn't done yet, as a code, and when it is tried again.
    waits_for    text,
    next_try_at  timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (session_id, what)
);

CREATE INDEX erasures_next ON erasures (next_try_at);

-- Sessions that were erased: what comes of them later isn't stored.
CREATE TABLE tombstones (
    session_id text COLLATE "C" PRIMARY KEY,
    erased_on  date NOT NULL DEFAULT current_date
);

-- The daily runs, by the moment they were due.
CREATE TABLE retention_runs (
    due_at      timestamptz PRIMARY KEY,
    finished_at timestamptz NOT NULL DEFAULT now(),
    recordings  bigint NOT NULL,
    events      bigint NOT NULL,
    sessions    bigint NOT NULL
);

-- In which order a run looks at what is old.
CREATE INDEX sessions_by_end ON sessions (ended_at, id) WHERE sealed_at IS NOT NULL;

-- Whether a session is held, by a hold of its own or of its tenant and agent.
CREATE FUNCTION session_held(wanted_id text, wanted_tenant text, wanted_agent text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM session_holds WHERE session_id = wanted_id)
        OR EXISTS (
            SELECT FROM retention_holds WHERE tenant IN (wanted_tenant, '*') AND agent IN (wanted_agent, '*')
        )
$$;

-- Holds and the points of no return of deletions come one after the other: taken first by whoever writes either.
CREATE FUNCTION retention_lock() RETURNS void
LANGUAGE sql VOLATILE AS $$ SELECT pg_advisory_xact_lock(7453010313431117924) $$;

-- Where events lie in partitions by month (`session_events_2026_03`): drops those of months wholly before a day of which
-- nothing is left, and says which. What comes of such a month later finds its place in the default partition.
CREATE FUNCTION drop_empty_event_partitions(before date) RETURNS SETOF text
LANGUAGE plpgsql
SET lock_timeout = '1s'
AS $$
DECLARE
    partition text;
    is_empty boolean;
BEGIN
    FOR partition IN
        SELECT child.relname
        FROM pg_inherits
        JOIN pg_class AS child ON child.oid = inhrelid
        WHERE inhparent = to_regclass('session_events') AND child.relname ~ '^session_events_\d{4}_\d{2}$'
            AND to_date(right(child.relname, 7), 'YYYY_MM') + interval '1 month' <= before
        ORDER BY child.relname
    LOOP
        EXECUTE format('SELECT NOT EXISTS (SELECT FROM %I)', partition) INTO is_empty;
        CONTINUE WHEN NOT is_empty;
        -- References are taken down on both sides. Nobody writes to it from here on, so it is looked at once more.
        LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE;
        LOCK TABLE session_events IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('SELECT NOT EXISTS (SELECT FROM %I)', partition) INTO is_empty;
        CONTINUE WHEN NOT is_empty;
        EXECUTE format('DROP TABLE %I', partition);
        RETURN NEXT partition;
    END LOOP;
END
$$;
