"""NATS and PostgreSQL as child processes, from binaries that the package index brings: no installation, no root.

They listen on loopback with a password of their own, keep everything below the folder they are given, and end when
the process that started them ends, however that happens.
"""
