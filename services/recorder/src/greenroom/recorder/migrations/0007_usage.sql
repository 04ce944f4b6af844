-- What sessions used, what that costs by dated prices, and budgets. Amounts of money are numeric, never floats.

-- One row for each thing that is priced by itself. No foreign key: what was used stays to be paid for when the session
-- itself is erased, without its id, and there is nothing of what was said in it. `tenant` and `agent` are the session's; `at` is when
-- it started, which decides on the price and on the day and month that it counts for.
CREATE TABLE usage (
    session_id text COLLATE "C" NOT NULL,
    tenant     text COLLATE "C" NOT NULL,
    agent      text COLLATE "C" NOT NULL,
    at         timestamptz NOT NULL,
    provider   text COLLATE "C" NOT NULL,
    model      text COLLATE "C" NOT NULL,
    -- recorder/usage/lines.py explains them.
    unit       text COLLATE "C" NOT NULL,
    quantity   numeric NOT NULL CHECK (quantity > 0 AND quantity < 'infinity'),
    counted_at timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (session_id, provider, model, unit)
);

CREATE INDEX usage_of_tenant ON usage (tenant, at);
CREATE INDEX usage_by_time ON usage (at);

-- Ended sessions of which something was stored since they were counted; as small as the recorder's backlog. A mark is
-- always written, never passed over, so that whoever marks waits for whoever is counting.
CREATE TABLE usage_due (
    session_id text COLLATE "C" PRIMARY KEY,
    marked_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX usage_due_first ON usage_due (marked_at);

-- A session that is erased leaves what it used, under an id that nobody knows it by. The mark first: that waits for
-- whoever is counting the session, and so sees what he has written.
CREATE FUNCTION usage_anonymous() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    nobody text := 'erased-' || gen_random_uuid();
BEGIN
    DELETE FROM usage_due WHERE session_id = OLD.id;
    UPDATE usage SET session_id = nobody WHERE session_id = OLD.id;
    RETURN NULL;
END
$$;

CREATE TRIGGER usage_anonymous AFTER DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION usage_anonymous();

-- What was stored before there was this table.
INSERT INTO usage_due (session_id) SELECT id FROM sessions WHERE state = 'ended';

-- From `valid_from` on, until the next one of the same key. Tenant `*`: every tenant that has none of its own;
-- model `*`: every model of the provider that has none of its own.
CREATE TABLE prices (
    tenant     text COLLATE "C" NOT NULL DEFAULT '*',
    provider   text COLLATE "C" NOT NULL,
    model      text COLLATE "C" NOT NULL DEFAULT '*',
    unit       text COLLATE "C" NOT NULL,
    valid_from timestamptz NOT NULL,
    price      numeric NOT NULL CHECK (price >= 0 AND price < 'infinity'),
    -- Of so many units: prices of tokens are told by the million.
    per        integer NOT NULL DEFAULT 1 CHECK (per IN (1, 1000, 1000000)),
    currency   text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),

    PRIMARY KEY (tenant, provider, model, unit, valid_from)
);

-- Usage with its cost, exact to the last digit; NULL where there is no price. A tenant's own price comes before the
-- common one, then the model's own before the provider's; of those of one key the newest that is valid.
CREATE VIEW usage_priced AS
SELECT used.*, used.quantity * priced.price * priced.share AS cost, priced.currency
FROM usage AS used
LEFT JOIN LATERAL (
    SELECT price, currency, CASE per WHEN 1 THEN 1 WHEN 1000 THEN 0.001 ELSE 0.000001 END AS share
    FROM prices
    WHERE provider = used.provider AND unit = used.unit AND valid_from <= used.at
        AND tenant IN (used.tenant, '*') AND model IN (used.model, '*')
    ORDER BY tenant = '*', model = '*', valid_from DESC
    LIMIT 1
) AS priced ON true;

-- How much may be spent in each day or month of a zone.
CREATE TABLE budgets (
    id         text COLLATE "C" PRIMARY KEY,
    tenant     text COLLATE "C" NOT NULL,
    -- `*`: all of the tenant's agents together.
    agent      text COLLATE "C" NOT NULL DEFAULT '*',
    amount     numeric NOT NULL CHECK (amount > 0 AND amount < 'infinity'),
    currency   text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    period     text NOT NULL CHECK (period IN ('day', 'month')),
    -- IANA name.
    zone       text NOT NULL DEFAULT 'UTC',
    -- The share of the amount at which somebody is told.
    warn_share numeric NOT NULL DEFAULT 0.8 CHECK (warn_share > 0 AND warn_share <= 1),
    at_limit   text NOT NULL DEFAULT 'refuse' CHECK (at_limit IN ('queue', 'refuse'))
);

CREATE INDEX budgets_of_tenant ON budgets (tenant, id);

-- What was said of budgets: each once for a period and an amount, published when `published_at` is set.
CREATE TABLE budget_notices (
    budget_id    text COLLATE "C" NOT NULL,
    period_start timestamptz NOT NULL,
    amount       numeric NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('budget.warning', 'budget.reached')),
    notice       jsonb NOT NULL,
    made_at      timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,

    PRIMARY KEY (budget_id, period_start, amount, kind)
);

CREATE INDEX budget_notices_to_publish ON budget_notices (made_at) WHERE published_at IS NULL;
