-- How an agent's sessions are recorded: {"format": "wav" | "flac" | "opus", "layout": "stereo" | "mixed" | "tracks",
-- "off": true}; what it leaves out is as the recorder's settings say. greenroom.common.recordings.RecordingChoice.
ALTER TABLE agents ADD COLUMN IF NOT EXISTS recording jsonb NOT NULL DEFAULT '{}'
    CONSTRAINT agents_recording CHECK (
        jsonb_typeof(recording) = 'object'
        AND coalesce(recording ->> 'format', 'wav') IN ('wav', 'flac', 'opus')
        AND coalesce(recording ->> 'layout', 'stereo') IN ('stereo', 'mixed', 'tracks')
        AND jsonb_typeof(coalesce(recording -> 'off', 'false')) = 'boolean'
    );

COMMENT ON COLUMN recordings.path IS
    'Relative to where recordings are kept: the folder, or the bucket. The first of the files that the manifest names.';

-- Who may be missing audio: looked for every few seconds, among as many as there are slots.
CREATE INDEX IF NOT EXISTS sessions_connected ON sessions (id) WHERE state IN ('ready', 'ending') AND media_connected;
