"""Tests on a fleet: hosts that are containers with their own sshd and Docker (marker `fleet`)."""
