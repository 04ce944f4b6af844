"""What there is to read of a session: transcript, timeline, bundle; search and exports over many."""
