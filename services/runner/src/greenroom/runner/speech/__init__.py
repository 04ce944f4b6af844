"""Speech without a provider: espeak-ng speaks, pocketsphinx hears; both run in-process and need no network."""
