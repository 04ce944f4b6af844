-- The sealed recordings. A session without audio has none.
CREATE TABLE recordings (
    session_id text COLLATE "C" PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    tenant     text COLLATE "C" NOT NULL,
    -- Relative to GREENROOM_RECORDINGS_DIR, which may move; the manifest lies beside it with the suffix `.json`.
    path       text NOT NULL UNIQUE,
    format     text NOT NULL,
    duration_s double precision NOT NULL,
    channels   smallint NOT NULL,
    rate       integer NOT NULL,
    bytes      bigint NOT NULL,
    sha256     text NOT NULL,
    -- [{"track", "from_s", "to_s"}]: audio that was numbered by its sender and never arrived.
    gaps       jsonb NOT NULL,
    manifest   jsonb NOT NULL,
    saved_at   timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX recordings_newest ON recordings (tenant, saved_at DESC, session_id DESC);
