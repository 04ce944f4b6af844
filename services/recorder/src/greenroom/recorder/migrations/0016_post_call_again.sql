-- Steps after calls are made again when more was said (docs/post-call.md), and what is noted of a session can't be missed
-- by what is noted of it at the same time.

-- How many lines a step's result was made of; NULL: it has none yet, or is from before this was noted.
ALTER TABLE post_call_steps ADD COLUMN IF NOT EXISTS lines integer;

-- A note for each reason to look at a session (it was sealed; something was said in it after that): whoever writes one
-- waits for nobody who reads one, and whoever forgets one forgets no other.
ALTER TABLE post_call_sealed DROP CONSTRAINT IF EXISTS post_call_sealed_pkey;
ALTER TABLE post_call_sealed ADD COLUMN IF NOT EXISTS id bigint GENERATED ALWAYS AS IDENTITY;
ALTER TABLE post_call_sealed ADD CONSTRAINT post_call_sealed_pkey PRIMARY KEY (id);
-- Erasing a session finds its notes by this.
CREATE INDEX IF NOT EXISTS post_call_sealed_of_session ON post_call_sealed (session_id);
-- Transactions that began before this one may still be storing what was said, without having seen the seal. NULL: nobody
-- has looked yet.
ALTER TABLE post_call_sealed ADD COLUMN IF NOT EXISTS before_xid xid8;
