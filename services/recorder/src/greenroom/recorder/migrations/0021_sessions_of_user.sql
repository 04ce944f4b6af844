-- Which session a user has now, or had last: few sessions name one.
CREATE INDEX sessions_newest_by_user ON sessions (tenant, (document ->> 'user'), requested_at DESC, id DESC)
    WHERE document ->> 'user' IS NOT NULL;
