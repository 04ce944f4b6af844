"""What keeps a session process from its neighbours, its runner and the host.

Four things, each in force as far as the kernel and the launcher allow, and logged as they are (`session_isolation`):

1. `environment`: the zygote, and so every session, is started with an allow-list of the runner's variables.
2. `confinement`: no new privileges, no capabilities, no core dumps, nothing that others of the same user may trace or
   read, a Landlock domain of its own, few file descriptors. Made in the zygote, so that a fork only inherits it.
3. `groups`: a control group (version 2) for each session where the runner's own one is delegated to it.
4. `usage`: what a session uses, read from its group, or else from procfs.

docs/isolation.md says what follows from that, and what doesn't.
"""
