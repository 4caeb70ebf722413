"""The core process: one loop that alternates deciding and computing, a heartbeat, and the socket to its API process."""
