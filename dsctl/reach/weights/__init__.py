"""Moving weights between machines: hashing directories, serving ranges, receiving verified chunks."""
