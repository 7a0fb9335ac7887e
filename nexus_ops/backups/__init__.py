"""Backups of PostgreSQL and Redis: taken as a stream, stored in bundles, catalogued in the object store, restored verified."""
