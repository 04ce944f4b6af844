"""The scheduler's own core in virtual time: what it would do with a fleet, callers and faults that a file describes."""
