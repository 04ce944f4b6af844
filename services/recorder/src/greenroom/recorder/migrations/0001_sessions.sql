-- What is known of each session: a projection of the ledger, rebuilt from it message by message.
--
-- `document` is the session as the newest ledger message carries it, defaults included; the columns beside it are
-- what queries filter and sort by. Texts that are ids sort by byte (COLLATE "C"), as UUIDv7 do by time.
CREATE TABLE sessions (
    id                text COLLATE "C" PRIMARY KEY,
    tenant            text COLLATE "C" NOT NULL,
    agent             text NOT NULL,
    agent_version     integer NOT NULL,
    bot               text NOT NULL,
    pool              text NOT NULL,
    transport         text NOT NULL,
    on_loss           text NOT NULL,

    state             text NOT NULL CHECK (state IN ('requested', 'leased', 'started', 'ready', 'ending', 'ended')),
    epoch             integer NOT NULL,
    attempt           integer NOT NULL,
    runner_id         text,
    media_connected   boolean NOT NULL,

    requested_at      timestamptz NOT NULL,
    queue_deadline_at timestamptz NOT NULL,
    lease_expires_at  timestamptz,
    leased_at         timestamptz,
    started_at        timestamptz,
    ready_at          timestamptz,
    ending_at         timestamptz,
    ended_at          timestamptz,

    outcome           text CHECK (outcome IN ('completed', 'failed', 'canceled', 'rejected', 'expired', 'lost')),
    reason            text,
    ended_by          text,
    detail            text,

    traceparent       text,
    -- 00-{trace id: 32 hex digits}-{span id}-{flags}
    trace_id          text GENERATED ALWAYS AS (substr(traceparent, 4, 32)) STORED,

    document          jsonb NOT NULL,
    body              jsonb GENERATED ALWAYS AS (coalesce(document -> 'body', '{}')) VIRTUAL,
    config            jsonb GENERATED ALWAYS AS (coalesce(document -> 'config', '{}')) VIRTUAL,
    metadata          jsonb GENERATED ALWAYS AS (coalesce(document -> 'metadata', '{}')) VIRTUAL,
    limits            jsonb GENERATED ALWAYS AS (coalesce(document -> 'limits', '{}')) VIRTUAL,

    -- Stream sequence of the ledger message that `document` comes from.
    ledger_revision   bigint NOT NULL,
    stored_at         timestamptz NOT NULL DEFAULT now(),
    -- The recording is saved, or there is nothing to be recorded: no audio is taken any more.
    sealed_at         timestamptz,
    -- The broker has forgotten what is stored here.
    purged_at         timestamptz,

    CHECK ((state = 'ended') = (ended_at IS NOT NULL))
) WITH (fillfactor = 80); -- six updates a life: leave room for them in the page

-- Newest first, resumed behind (requested_at, id); one index for each filter that narrows much.
CREATE INDEX sessions_newest ON sessions (tenant, requested_at DESC, id DESC);
CREATE INDEX sessions_newest_by_state ON sessions (tenant, state, requested_at DESC, id DESC);
CREATE INDEX sessions_newest_by_agent ON sessions (tenant, agent, requested_at DESC, id DESC);
CREATE INDEX sessions_newest_by_outcome ON sessions (tenant, outcome, requested_at DESC, id DESC)
    WHERE outcome IS NOT NULL;

-- What the recorder still has to do; both stay as small as its backlog.
CREATE INDEX sessions_to_seal ON sessions (ended_at) WHERE state = 'ended' AND sealed_at IS NULL;
CREATE INDEX sessions_to_purge ON sessions (ended_at) WHERE sealed_at IS NOT NULL AND purged_at IS NULL;

-- Everything that happened in a session, its lifecycle included (`session.requested` … `session.ended`, source
-- `ledger`), in the one order of the stream: `stream_seq` is what every reader resumes behind.
CREATE TABLE session_events (
    session_id text COLLATE "C" NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    stream_seq bigint NOT NULL,
    tenant     text COLLATE "C" NOT NULL,
    -- Given by the publisher; of other services' events any text.
    id         text COLLATE "C" NOT NULL,
    -- Counted by the source from 1, per epoch; 0 where it doesn't count.
    seq        bigint NOT NULL,
    epoch      integer NOT NULL,
    source     text NOT NULL,
    type       text NOT NULL,
    at         timestamptz NOT NULL,
    stored_at  timestamptz NOT NULL DEFAULT now(),
    data       jsonb NOT NULL,

    PRIMARY KEY (session_id, stream_seq),
    -- An event that its publisher sends twice is one event.
    UNIQUE (session_id, id)
);
