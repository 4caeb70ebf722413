"""Keeps a core alive: starts it, watches it, kills it when it hangs, and replays what it had not finished."""
