-- Phone numbers: which agent of which tenant answers, and what callers hear while no slot is free.
CREATE TABLE numbers (
    carrier     text COLLATE "C" NOT NULL,
    -- Digits, with a plus in front where the carrier has one.
    number      text COLLATE "C" NOT NULL,
    tenant      text COLLATE "C" NOT NULL,
    agent       text NOT NULL,
    -- What becomes of a call that finds no free slot: `refuse` it as busy, or `hold` it.
    at_busy     text NOT NULL DEFAULT 'refuse' CHECK (at_busy IN ('refuse', 'hold')),
    hold_s      double precision NOT NULL DEFAULT 60 CHECK (hold_s > 0),
    -- Spoken to whoever is held, and to whoever is refused; empty: nothing.
    hold_text   text NOT NULL DEFAULT '',
    busy_text   text NOT NULL DEFAULT '',
    -- What the bot is given with each call.
    body        jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (carrier, number)
);

-- With and without its plus it is one number.
CREATE UNIQUE INDEX numbers_without_plus ON numbers (carrier, ltrim(number, '+'));

CREATE INDEX numbers_of_tenant ON numbers (tenant, carrier, number);
