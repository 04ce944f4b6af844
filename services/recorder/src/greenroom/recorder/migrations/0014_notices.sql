-- What is said of tenants beside their sessions (budgets, limits), as far as it is told to webhook endpoints.

CREATE TABLE notices (
    id         text COLLATE "C" PRIMARY KEY,
    tenant     text COLLATE "C" NOT NULL,
    type       text NOT NULL,
    -- What it is about, e.g. a budget: what is said of that is told in order.
    subject    text COLLATE "C" NOT NULL,
    stream_seq bigint NOT NULL,
    at         timestamptz NOT NULL,
    source     text NOT NULL,
    data       jsonb NOT NULL,
    stored_at  timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX notices_stored ON notices (stored_at);

-- Queues what was just stored for whoever wants it, in the transaction that stores it.
CREATE FUNCTION notices_queue() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WITH queued AS (
        INSERT INTO webhook_deliveries (endpoint_id, lane, position, event_id, type)
        SELECT id, 'notice-' || NEW.subject, NEW.stream_seq, NEW.id, NEW.type
        FROM webhook_endpoints
        WHERE tenant = NEW.tenant AND enabled AND deleted_at IS NULL AND webhook_wants(events, NEW.type)
        ON CONFLICT (endpoint_id, lane, event_id) DO NOTHING
        RETURNING endpoint_id, lane
    )
    INSERT INTO webhook_lanes (endpoint_id, lane)
    SELECT endpoint_id, lane FROM queued ORDER BY endpoint_id
    -- As where events are queued: whoever is about to remove the lane looks again after us.
    ON CONFLICT (endpoint_id, lane) DO UPDATE SET next_at = webhook_lanes.next_at;
    RETURN NULL;
END
$$;

CREATE TRIGGER notices_queue AFTER INSERT ON notices FOR EACH ROW EXECUTE FUNCTION notices_queue();

-- ---------------------------------------------------------------------------------------------------------------------
-- Steps after calls as tenants and agents have chosen them (docs/post-call.md). Agent `*`: the tenant's others.
CREATE TABLE post_call_choices (
    tenant     text COLLATE "C" NOT NULL,
    agent      text COLLATE "C" NOT NULL DEFAULT '*',
    -- Instead of those of the settings; none: nothing is run.
    steps      text[] NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (tenant, agent)
);
