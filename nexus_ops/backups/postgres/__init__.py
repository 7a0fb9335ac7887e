"""PostgreSQL: physical and logical backups, the archive of its write-ahead log, restores and drills."""
