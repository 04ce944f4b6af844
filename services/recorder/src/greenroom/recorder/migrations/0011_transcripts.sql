-- What was said, to be searched. Made from session_events when a session is sealed, and made again when speech comes
-- late; sessions that ended before this table was there are taken up too. See greenroom.recorder.transcripts.
CREATE TABLE transcripts (
    session_id   text COLLATE "C" NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    -- From 1 on: a tsvector holds 1 MB, so a long text is kept in parts. Most have one.
    part         integer NOT NULL,
    tenant       text COLLATE "C" NOT NULL,
    agent        text NOT NULL,
    requested_at timestamptz NOT NULL,
    -- An utterance a line, without the speakers' names, and when each began, in milliseconds from the call's beginning.
    text         text NOT NULL,
    starts_ms    bigint[] NOT NULL,
    -- Words as they are: calls are held in any language.
    words        tsvector NOT NULL GENERATED ALWAYS AS (to_tsvector('simple', text)) STORED,

    PRIMARY KEY (session_id, part)
);

CREATE INDEX transcripts_words ON transcripts USING gin (words);
CREATE INDEX transcripts_newest ON transcripts (tenant, requested_at DESC, session_id DESC, part);

-- When that was done; null: it is to be done, once the session is sealed.
ALTER TABLE sessions ADD COLUMN transcribed_at timestamptz;

-- Stays as small as what is still to be done.
CREATE INDEX sessions_to_transcribe ON sessions (ended_at) WHERE sealed_at IS NOT NULL AND transcribed_at IS NULL;
