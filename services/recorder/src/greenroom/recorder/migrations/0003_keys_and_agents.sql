-- Keys of the API. A key itself is shown once and never stored.
CREATE TABLE api_keys (
    id           text COLLATE "C" PRIMARY KEY,
    tenant       text COLLATE "C" NOT NULL,
    name         text NOT NULL,
    -- The first characters, so that a person can tell keys apart.
    prefix       text NOT NULL,
    -- Of the whole key, in hex.
    sha256       text COLLATE "C" NOT NULL UNIQUE,
    scopes       text[] NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);

CREATE INDEX api_keys_of_tenant ON api_keys (tenant, created_at DESC, id DESC);

-- Agents: a bot and how it is configured. Tenant `*` shares one with all tenants.
CREATE TABLE agents (
    tenant      text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL,
    version     integer NOT NULL,
    bot         text NOT NULL,
    pool        text NOT NULL DEFAULT 'default',
    description text NOT NULL DEFAULT '',
    -- JSON Schema of the request's `body`; NULL takes any.
    body_schema jsonb,
    config      jsonb NOT NULL DEFAULT '{}',
    limits      jsonb NOT NULL DEFAULT '{}',
    on_loss     text NOT NULL DEFAULT 'before_media' CHECK (on_loss IN ('never', 'before_media', 'always')),
    transports  text[] NOT NULL DEFAULT '{websocket}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (tenant, name, version)
);
