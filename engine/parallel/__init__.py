"""Several processes computing one model: who holds what, and how parts become wholes again."""
