"""Says what is wrong, why, and the value that fixes it: pure rules over what was read from logs and from the machine."""
