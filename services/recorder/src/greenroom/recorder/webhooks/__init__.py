"""Webhooks out: what happens in sessions, and is said of budgets and limits, is told to the tenant's endpoints.

- A delivery is a row, written by a trigger in the transaction that stores its event: neither is there without the
  other.
- The deliveries of one session to one endpoint are a lane, as are those about one budget or limit. A
  lane is sent one after another: the next waits until the former is `delivered` or `dead`. Whoever sends takes the lane
  by moving its `next_at` ahead (FOR UPDATE SKIP LOCKED), so any number of recorders share the lanes, and what a killed
  one had in hand is due again when that time comes.
- A status of 2xx within 15 s delivers it. Anything else is tried again with growing delays for 24 h; then the delivery
  is dead, and may be replayed. 410 disables the endpoint.
- An endpoint has so many requests at once and no more; one that fails has a single one, then pauses; those that fail
  have half of a process' requests together. So a slow or dead endpoint holds up nobody else.

`schedule` decides (pure), `store` has the SQL, `sender` the HTTP, `deliverer` puts them together.
"""
