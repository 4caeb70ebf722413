"""What a machine and its processes say: a question, and a pure reading of the answer; absence is Missing."""
