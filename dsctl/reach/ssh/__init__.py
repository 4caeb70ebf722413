"""The way to other hosts: one SSH connection each, carrying commands, files, Docker's API and the lock."""
