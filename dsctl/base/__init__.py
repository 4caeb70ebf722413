"""What every part of dsctl stands on: errors, exit codes, secrets, paths, units, steps (stdlib only)."""
