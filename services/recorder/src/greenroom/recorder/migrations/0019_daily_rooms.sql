-- Rooms at Daily that agents go to by themselves, as soon as somebody is in one (docs/transports.md).
CREATE TABLE IF NOT EXISTS daily_rooms (
    tenant        text COLLATE "C" NOT NULL,
    -- The agent's name; it may come and go with the runners that announce it.
    agent         text COLLATE "C" NOT NULL,
    -- Patterns of the rooms' names.
    rooms         text[] NOT NULL CHECK (cardinality(rooms) BETWEEN 1 AND 32),
    -- How many sessions at once are begun like this.
    max_sessions  integer NOT NULL DEFAULT 5 CHECK (max_sessions BETWEEN 0 AND 500),
    -- What the bot is given with each.
    body          jsonb NOT NULL DEFAULT '{}',
    changed_at    timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (tenant, agent)
);
