"""What a model and an engine are, in plain values: the one part of the engine that dsctl may import (stdlib only)."""
