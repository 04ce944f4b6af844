-- What a tenant has set of an agent for itself, in place of what the agent says: of its own agents, and of those that
-- are shared with all tenants. NULL: as the agent says.
CREATE TABLE IF NOT EXISTS agent_settings (
    tenant      text COLLATE "C" NOT NULL,
    -- The agent's name; it may come and go with the runners that announce it.
    agent       text COLLATE "C" NOT NULL,
    -- What becomes of its sessions when their runner is lost.
    on_loss     text CHECK (on_loss IN ('never', 'before_media', 'always')),
    -- How they are recorded; greenroom.common.recordings.RecordingChoice.
    recording   jsonb CONSTRAINT agent_settings_recording CHECK (
        jsonb_typeof(recording) = 'object'
        AND coalesce(recording ->> 'format', 'wav') IN ('wav', 'flac', 'opus')
        AND coalesce(recording ->> 'layout', 'stereo') IN ('stereo', 'mixed', 'tracks')
        AND jsonb_typeof(coalesce(recording -> 'off', 'false')) = 'boolean'
    ),
    updated_at  timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (tenant, agent)
);
