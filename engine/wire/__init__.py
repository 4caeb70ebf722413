"""Messages between the API process and its core: msgspec structs in msgpack, never pickle."""
