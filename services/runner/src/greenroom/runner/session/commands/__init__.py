"""Commands to the live session: taken once, carried out on the pipeline of an unmodified bot, answered and audited."""
