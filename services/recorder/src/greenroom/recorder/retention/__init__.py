"""What is deleted, when, and how: the daily run by rules, and erasures that somebody asked for.

Both lead to rows of `erasures`, which are carried out by one piece of code, in this order:

1. It waits until the session has ended and is sealed, so that nobody writes its files any more.
2. `begun_at` is set, unless a hold concerns it: holds and this come one after the other (`retention_lock`). From here
   on it is finished, whatever happens. Of a whole session the tombstone is written with it: ingest of events and audio
   asks for tombstones inside the transactions that it writes in, and a barrier waits for those that asked before.
3. Files are deleted, then what the broker has, and the rows last, together with the row of `erasures` and the line of
   the audit: while anything is left, there is a row that leads to it. A process killed in between leaves the row, and
   whoever leads next starts over; every step can be repeated.
"""
