"""One file a verb; a command parses, calls one flow and shows what came of it."""
