-- Webhooks out: whom events are told to, what is still to be told, and how it went. The states and what happens when
-- something fails are described in docs/webhooks.md.

CREATE TABLE webhook_endpoints (
    id               text COLLATE "C" PRIMARY KEY,
    tenant           text COLLATE "C" NOT NULL,
    url              text NOT NULL,
    description      text NOT NULL DEFAULT '',
    -- Types that it wants: whole ones, `prefix.*`, or `*`.
    events           text[] NOT NULL,
    -- `whsec_…`; signs, so it can't be kept as a digest. After a change the old one signs too, for a while.
    secret           text NOT NULL,
    old_secret       text,
    old_secret_until timestamptz,
    enabled          boolean NOT NULL DEFAULT true,
    -- Why we disabled it; NULL where nobody but its owner did.
    disabled_reason  text,
    -- Attempts that failed since the last that didn't; while there are some it is asked less.
    failures         integer NOT NULL DEFAULT 0,
    paused_until     timestamptz NOT NULL DEFAULT '-infinity',
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    -- Nobody sees it any more; its deliveries are removed bit by bit, and then itself.
    deleted_at       timestamptz,

    CHECK ((old_secret IS NULL) = (old_secret_until IS NULL))
);

CREATE INDEX webhook_endpoints_of_tenant ON webhook_endpoints (tenant, created_at, id) WHERE deleted_at IS NULL;

-- One event for one endpoint. What is sent is made of the stored event, so that nothing of a session is kept twice.
CREATE TABLE webhook_deliveries (
    -- The `webhook-id` of every attempt.
    id           text COLLATE "C" PRIMARY KEY DEFAULT 'msg_' || replace(uuidv7()::text, '-', ''),
    endpoint_id  text COLLATE "C" NOT NULL REFERENCES webhook_endpoints (id) ON DELETE CASCADE,
    -- What is told in order: a session's id; of a test its own.
    lane         text COLLATE "C" NOT NULL,
    -- In that order: the stream sequence of the event.
    position     bigint NOT NULL,
    session_id   text COLLATE "C" REFERENCES sessions (id) ON DELETE CASCADE,
    event_id     text COLLATE "C" NOT NULL,
    type         text NOT NULL,
    state        text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead')),
    attempts     integer NOT NULL DEFAULT 0,
    -- Of the last attempt: the HTTP status that came, or what happened instead.
    last_status  integer,
    last_error   text,
    last_at      timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    -- Until when it is tried.
    give_up_at   timestamptz NOT NULL DEFAULT now() + interval '24 hours',
    settled_at   timestamptz,

    UNIQUE (endpoint_id, lane, event_id)
) WITH (fillfactor = 80);

CREATE INDEX webhook_deliveries_pending ON webhook_deliveries (endpoint_id, lane, position) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_overdue ON webhook_deliveries (give_up_at) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_settled ON webhook_deliveries (state, settled_at) WHERE state <> 'pending';
CREATE INDEX webhook_deliveries_newest ON webhook_deliveries (endpoint_id, created_at DESC, id DESC);
CREATE INDEX webhook_deliveries_of_session ON webhook_deliveries (session_id);

-- A lane has a row here as long as something of it is pending: whoever sends takes the lane, by moving `next_at`.
CREATE TABLE webhook_lanes (
    endpoint_id text COLLATE "C" NOT NULL REFERENCES webhook_endpoints (id) ON DELETE CASCADE,
    lane        text COLLATE "C" NOT NULL,
    session_id  text COLLATE "C" REFERENCES sessions (id) ON DELETE CASCADE,
    next_at     timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (endpoint_id, lane)
) WITH (fillfactor = 80);

CREATE INDEX webhook_lanes_due ON webhook_lanes (endpoint_id, next_at);
CREATE INDEX webhook_lanes_of_session ON webhook_lanes (session_id);

-- What an event is called outside, where that isn't its own name.
CREATE FUNCTION webhook_type(type text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE type WHEN 'recording_saved' THEN 'recording.ready' ELSE type END
$$;

-- Whether an endpoint that wants `events` wants `type`.
CREATE FUNCTION webhook_wants(events text[], type text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT EXISTS (
        SELECT FROM unnest(events) AS wanted
        WHERE wanted IN ('*', type) OR (right(wanted, 2) = '.*' AND starts_with(type, left(wanted, -1)))
    )
$$;

-- Queues what was just stored, in the transaction that stores it. Whatever stores events, and however often it tries:
-- each event that becomes a row is queued, and none is that doesn't.
CREATE FUNCTION webhooks_queue() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM webhook_endpoints WHERE enabled) THEN
        RETURN NULL;
    END IF;
    -- Who wants what is asked once for each type there is.
    WITH wanted AS MATERIALIZED (
        SELECT endpoint.id AS endpoint_id, kind.tenant, kind.type, webhook_type(kind.type) AS told
        FROM (SELECT DISTINCT tenant, type FROM stored) AS kind
        JOIN webhook_endpoints AS endpoint
            ON endpoint.tenant = kind.tenant AND endpoint.enabled AND endpoint.deleted_at IS NULL
            AND webhook_wants(endpoint.events, webhook_type(kind.type))
    ),
    queued AS (
        INSERT INTO webhook_deliveries (endpoint_id, lane, position, session_id, event_id, type)
        SELECT wanted.endpoint_id, happened.session_id, happened.stream_seq, happened.session_id, happened.id,
            wanted.told
        FROM wanted JOIN stored AS happened ON happened.tenant = wanted.tenant AND happened.type = wanted.type
        ON CONFLICT (endpoint_id, lane, event_id) DO NOTHING
        RETURNING endpoint_id, lane, session_id
    )
    INSERT INTO webhook_lanes (endpoint_id, lane, session_id)
    SELECT DISTINCT endpoint_id, lane, session_id FROM queued ORDER BY endpoint_id, lane
    -- Changes nothing but takes the lock: whoever is about to remove the lane looks again after us.
    ON CONFLICT (endpoint_id, lane) DO UPDATE SET next_at = webhook_lanes.next_at;
    RETURN NULL;
END
$$;

CREATE TRIGGER webhooks_queue AFTER INSERT ON session_events
    REFERENCING NEW TABLE AS stored FOR EACH STATEMENT EXECUTE FUNCTION webhooks_queue();

-- ---------------------------------------------------------------------------------------------------------------------
-- Steps after calls (docs/post-call.md)

-- Sessions that were sealed and whose steps aren't queued yet.
CREATE TABLE post_call_sealed (
    session_id text COLLATE "C" PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    sealed_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE post_call_steps (
    session_id text COLLATE "C" NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    step       text NOT NULL,
    tenant     text COLLATE "C" NOT NULL,
    state      text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'done', 'failed')),
    attempts   integer NOT NULL DEFAULT 0,
    result     jsonb,
    -- What the last attempt failed of.
    error      text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (session_id, step)
);

CREATE FUNCTION post_call_notice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO post_call_sealed (session_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;

CREATE TRIGGER post_call_notice AFTER UPDATE OF sealed_at ON sessions
    FOR EACH ROW WHEN (OLD.sealed_at IS NULL AND NEW.sealed_at IS NOT NULL) EXECUTE FUNCTION post_call_notice();
