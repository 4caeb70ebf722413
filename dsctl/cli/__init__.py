"""What the user types and sees: the only part of dsctl that knows a terminal."""
