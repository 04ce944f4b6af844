-- Usage added up by day, so that a month of it can be asked for. docs/usage.md says how it stays exact.

-- Days of UTC that are over. Sessions of an agent that used the same things are added up together, under a number that
-- means nothing else (`shape`): so it can be told how many sessions used something, whatever is asked for together.
CREATE TABLE usage_days (
    tenant   text COLLATE "C" NOT NULL,
    day      date NOT NULL,
    agent    text COLLATE "C" NOT NULL,
    shape    integer NOT NULL,
    provider text COLLATE "C" NOT NULL,
    model    text COLLATE "C" NOT NULL,
    unit     text COLLATE "C" NOT NULL,
    -- How many there are of the shape: the same in each of its lines.
    sessions bigint NOT NULL CHECK (sessions > 0),
    quantity numeric NOT NULL CHECK (quantity > 0 AND quantity < 'infinity'),

    PRIMARY KEY (tenant, day, agent, shape, provider, model, unit)
);

-- Days of tenants whose lines were changed since they were added up: until that is done again, their lines are read.
-- Marks are only ever added by whoever changes lines, so nobody waits for anybody.
CREATE TABLE usage_days_due (
    tenant    text COLLATE "C" NOT NULL,
    day       date NOT NULL,
    marked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX usage_days_due_of_tenant ON usage_days_due (tenant, day);
CREATE INDEX usage_days_due_by_day ON usage_days_due (day);

-- Whatever changes lines marks their days, in the same transaction.
CREATE FUNCTION usage_days_mark() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO usage_days_due (tenant, day) SELECT DISTINCT tenant, (at AT TIME ZONE 'UTC')::date FROM stored;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO usage_days_due (tenant, day) SELECT DISTINCT tenant, (at AT TIME ZONE 'UTC')::date FROM removed;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER usage_days_stored AFTER INSERT ON usage
    REFERENCING NEW TABLE AS stored FOR EACH STATEMENT EXECUTE FUNCTION usage_days_mark();
CREATE TRIGGER usage_days_removed AFTER DELETE ON usage
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION usage_days_mark();
CREATE TRIGGER usage_days_changed AFTER UPDATE ON usage
    REFERENCING OLD TABLE AS removed NEW TABLE AS stored FOR EACH STATEMENT EXECUTE FUNCTION usage_days_mark();

-- Everybody's usage is asked for tenant by tenant: by time alone a tenant's would be looked for among all.
DROP INDEX IF EXISTS usage_by_time;

-- Whose usage there is: so that everybody's can be asked for tenant by tenant.
CREATE TRIGGER tenants_known AFTER INSERT ON usage
    REFERENCING NEW TABLE AS stored FOR EACH STATEMENT EXECUTE FUNCTION tenants_known();

-- What was counted before there was this table. A recorder that leads adds it up, day by day.
INSERT INTO usage_days_due (tenant, day) SELECT DISTINCT tenant, (at AT TIME ZONE 'UTC')::date FROM usage;

-- Which price holds for something at a moment; nothing, where none does. A tenant's own price comes before the common
-- one, then the model's own before the provider's; of those of one key the newest that is valid.
CREATE FUNCTION usage_price(used_by text, used_of text, used_model text, used_unit text, used_at timestamptz)
RETURNS TABLE (price_of_one numeric, currency text) LANGUAGE sql STABLE AS $$
    SELECT price * CASE per WHEN 1 THEN 1 WHEN 1000 THEN 0.001 ELSE 0.000001 END, currency
    FROM prices
    WHERE provider = used_of AND unit = used_unit AND valid_from <= used_at
        AND tenant IN (used_by, '*') AND model IN (used_model, '*')
    ORDER BY tenant = '*', model = '*', valid_from DESC
    LIMIT 1
$$;

-- What a tenant used between two times: of days that are wholly in it their sums, of all else the lines. A day counts
-- as lines, too, while it isn't over or isn't added up anew, where a price of the tenant's changes in the midst of it,
-- and where it is of two days of `zone`.
--
-- `whose` tells sessions, or those that were added up, from others; `sessions` is how many that are. What differs in
-- nothing but quantity has one price: the one that is valid at `priced_at`.
CREATE FUNCTION usage_between(used_by text, since timestamptz, until timestamptz, zone text)
RETURNS TABLE (
    tenant text, agent text, whose text, sessions bigint, at timestamptz, provider text, model text, unit text,
    quantity numeric, priced_at timestamptz
) LANGUAGE sql STABLE AS $$
    WITH changes AS (
        SELECT coalesce(array_agg(DISTINCT valid_from ORDER BY valid_from), '{}') AS of_price
        FROM prices WHERE prices.tenant IN (used_by, '*')
    ),
    -- What is to be read line by line.
    cut AS (
        SELECT day, greatest(begins, since) AS begins, least(ends, until) AS ends
        FROM (
            SELECT day::date AS day, day AT TIME ZONE 'UTC' AS begins, (day + interval '1 day') AT TIME ZONE 'UTC' AS ends
            FROM generate_series(
                date_trunc('day', since AT TIME ZONE 'UTC'),
                (until - interval '1 microsecond') AT TIME ZONE 'UTC',
                interval '1 day'
            ) AS day
        ) AS days, changes
        WHERE begins < since OR ends > until OR day >= (now() AT TIME ZONE 'UTC')::date
            OR (begins AT TIME ZONE zone)::date <> ((ends - interval '1 microsecond') AT TIME ZONE zone)::date
            OR width_bucket(begins, of_price) <> width_bucket(ends - interval '1 microsecond', of_price)
            OR EXISTS (SELECT FROM usage_days_due AS due WHERE due.tenant = used_by AND due.day = days.day)
    )
    SELECT sums.tenant, sums.agent, sums.day || '/' || sums.agent || '/' || sums.shape, sums.sessions,
        sums.day::timestamp AT TIME ZONE 'UTC', sums.provider, sums.model, sums.unit, sums.quantity,
        coalesce(
            (SELECT of_price FROM changes)[
                width_bucket(sums.day::timestamp AT TIME ZONE 'UTC', (SELECT of_price FROM changes))
            ],
            '-infinity'
        )
    FROM usage_days AS sums
    WHERE sums.tenant = used_by AND sums.day >= (since AT TIME ZONE 'UTC')::date
        AND sums.day <= ((until - interval '1 microsecond') AT TIME ZONE 'UTC')::date
        AND sums.day NOT IN (SELECT cut.day FROM cut)
    UNION ALL
    SELECT line.tenant, line.agent, line.session_id, 1, line.at, line.provider, line.model, line.unit, line.quantity,
        coalesce(
            (SELECT of_price FROM changes)[width_bucket(line.at, (SELECT of_price FROM changes))], '-infinity'
        )
    FROM cut
    -- One after the other (that is what OFFSET is for), each by its place in the index.
    CROSS JOIN LATERAL (
        SELECT * FROM usage WHERE usage.tenant = used_by AND usage.at >= cut.begins AND usage.at < cut.ends OFFSET 0
    ) AS line
$$;
