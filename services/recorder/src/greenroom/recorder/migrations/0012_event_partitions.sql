-- Events by month: what has been kept for long enough is dropped as a table, in a millisecond, and without a trace of
-- dead rows.
--
-- The month is that of the session's id. An id is a UUIDv7, which begins with the time of the request in milliseconds
-- and sorts by it (byte by byte: COLLATE "C"), so a month of sessions is a range of ids. By a time of the event itself
-- the keys would have to contain that time, and then hold within a month only: an event that is delivered again, later
-- (`stored_at`), or sent again with another time under the same id (`at`), would be stored twice. By the session's id
-- the keys stay what they were, (session_id, stream_seq) and (session_id, id), and each event is still one event;
-- a session's whole history is in one table, however long it lasts; and every query that names the session looks into
-- that one table only.
--
-- Sessions with other ids (of pins they are derived, not made) may be anywhere, most of them in the default partition,
-- which also takes what has no month yet. From there nothing is dropped by month: it goes with its session.
--
-- Other migrations may have added columns, indices, triggers or references: they are taken along as they are.

-- The smallest id of a UUIDv7 that is made at `at` or later, without its random part.
CREATE FUNCTION session_id_from(at timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$
    SELECT substr(hex, 1, 8) || '-' || substr(hex, 9, 4)
    FROM lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') AS hex
$$;

-- When a session was requested by its id; NULL for an id that isn't a UUIDv7.
CREATE FUNCTION session_id_at(id text) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$
    SELECT CASE WHEN id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-'
        THEN to_timestamp(('x' || substr(id, 1, 8) || substr(id, 10, 4))::bit(48)::bigint / 1000.0)
    END
$$;

-- Makes the partition of the month of `day` (UTC), if there is none, and moves into it what the default one holds of
-- it. Says its name if it was made.
CREATE FUNCTION make_event_partition(day date) RETURNS text
LANGUAGE plpgsql
SET lock_timeout = '3s'
AS $$
DECLARE
    since timestamptz := date_trunc('month', day::timestamp) AT TIME ZONE 'UTC';
    until timestamptz := (date_trunc('month', day::timestamp) + interval '1 month') AT TIME ZONE 'UTC';
    partition text := 'session_events_' || to_char(day, 'YYYY_MM');
    columns text;
BEGIN
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    -- In the order in which batches take them, so that nobody waits for anybody in a circle; and one maker at a time.
    LOCK TABLE sessions IN SHARE ROW EXCLUSIVE MODE;
    LOCK TABLE session_events IN SHARE ROW EXCLUSIVE MODE;
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE session_events INCLUDING ALL)', partition);
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns
    FROM pg_attribute
    WHERE attrelid = 'session_events'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
    EXECUTE format(
        'WITH moved AS (DELETE FROM session_events_default WHERE session_id >= %L AND session_id < %L RETURNING *) '
        'INSERT INTO %I (%s) SELECT %s FROM moved',
        session_id_from(since), session_id_from(until), partition, columns, columns
    );
    EXECUTE format(
        'ALTER TABLE session_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        partition, session_id_from(since), session_id_from(until)
    );
    RETURN partition;
END
$$;

-- Makes the partitions of this month and of the next `months`; the recorder calls it all the time. Says what was made.
CREATE FUNCTION make_event_partitions(months integer) RETURNS SETOF text
LANGUAGE sql
AS $$
    SELECT made
    FROM generate_series(0, months) AS ahead,
        LATERAL make_event_partition(((now() AT TIME ZONE 'UTC') + make_interval(months => ahead))::date) AS made
    WHERE made IS NOT NULL
$$;

-- Drops the partitions of the months that lie wholly before the day `before` (UTC), and says which. What such a month
-- holds of a session that hasn't ended, that was requested on that day or later, or that is held by law, is kept, in the
-- default partition. (Holds are in tables of their own, where there are any.)
CREATE FUNCTION drop_partitions_before(before date) RETURNS SETOF text
LANGUAGE plpgsql
SET lock_timeout = '3s'
AS $$
DECLARE
    partition text;
    columns text;
    kept text := format('session.state <> ''ended'' OR session.requested_at >= %L', before::timestamp AT TIME ZONE 'UTC');
BEGIN
    IF to_regclass('session_holds') IS NOT NULL THEN
        kept := kept || ' OR EXISTS (SELECT FROM session_holds AS held WHERE held.session_id = session.id)';
    END IF;
    IF to_regclass('retention_holds') IS NOT NULL THEN
        kept := kept || ' OR EXISTS (SELECT FROM retention_holds AS held WHERE held.tenant IN (''*'', session.tenant)'
            || ' AND held.agent IN (''*'', session.agent))';
    END IF;
    FOR partition IN
        SELECT child.relname
        FROM pg_inherits
        JOIN pg_class AS child ON child.oid = inhrelid
        WHERE inhparent = 'session_events'::regclass AND child.relname ~ '^session_events_\d{4}_\d{2}$'
            AND to_date(right(child.relname, 7), 'YYYY_MM') + interval '1 month' <= before
        ORDER BY child.relname
    LOOP
        -- References are taken down on both sides.
        LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE;
        LOCK TABLE session_events IN ACCESS EXCLUSIVE MODE;
        IF to_regclass(partition) IS NULL THEN
            CONTINUE; -- somebody else was first
        END IF;
        EXECUTE format('ALTER TABLE session_events DETACH PARTITION %I', partition);
        SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns
        FROM pg_attribute
        WHERE attrelid = 'session_events'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
        -- Moved, and not stored anew: what triggers do for a new event was done when it came.
        ALTER TABLE session_events_default DISABLE TRIGGER USER;
        EXECUTE format(
            'INSERT INTO session_events_default (%s) SELECT %s FROM %I WHERE session_id IN '
            '(SELECT id FROM sessions AS session WHERE id >= (SELECT min(session_id) FROM %I) '
            'AND id <= (SELECT max(session_id) FROM %I) AND (%s))',
            columns, columns, partition, partition, partition, kept
        );
        ALTER TABLE session_events_default ENABLE TRIGGER USER;
        EXECUTE format('DROP TABLE %I', partition);
        RETURN NEXT partition;
    END LOOP;
END
$$;

DO $$
DECLARE
    column_list text;
    constraint_defs text[];
    trigger_defs text[];
    def text;
    day date;
BEGIN
    LOCK TABLE sessions IN SHARE ROW EXCLUSIVE MODE;
    LOCK TABLE session_events IN ACCESS EXCLUSIVE MODE;
    SELECT array_agg(pg_get_constraintdef(oid) ORDER BY oid) INTO constraint_defs
    FROM pg_constraint WHERE conrelid = 'session_events'::regclass AND contype = 'f';
    SELECT array_agg(pg_get_triggerdef(oid) ORDER BY oid) INTO trigger_defs
    FROM pg_trigger WHERE tgrelid = 'session_events'::regclass AND NOT tgisinternal;
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO column_list
    FROM pg_attribute
    WHERE attrelid = 'session_events'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '';

    ALTER TABLE session_events RENAME TO session_events_unpartitioned;
    CREATE TABLE session_events (LIKE session_events_unpartitioned INCLUDING ALL) PARTITION BY RANGE (session_id);
    CREATE TABLE session_events_default PARTITION OF session_events DEFAULT;
    FOREACH def IN ARRAY coalesce(constraint_defs, '{}') LOOP
        EXECUTE 'ALTER TABLE session_events ADD ' || def;
    END LOOP;

    FOR day IN
        SELECT DISTINCT date_trunc('month', session_id_at(id) AT TIME ZONE 'UTC')::date
        FROM sessions
        WHERE session_id_at(id) BETWEEN '2020-01-01' AND now() + interval '1 day'
    LOOP
        PERFORM make_event_partition(day);
    END LOOP;
    PERFORM make_event_partitions(3);

    EXECUTE format(
        'INSERT INTO session_events (%s) SELECT %s FROM session_events_unpartitioned', column_list, column_list
    );
    DROP TABLE session_events_unpartitioned;
    -- Only now: what they do for a new row was done when it came.
    FOREACH def IN ARRAY coalesce(trigger_defs, '{}') LOOP
        EXECUTE def;
    END LOOP;
END
$$;

-- What may still be behind the ledger: as few as are live.
CREATE INDEX sessions_open ON sessions (id) WHERE state <> 'ended';
