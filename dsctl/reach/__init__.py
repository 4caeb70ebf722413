"""The only doors to the outside: processes, supervisor, http; and two that do nothing, for showing and testing."""
