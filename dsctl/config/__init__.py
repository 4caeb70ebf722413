"""What the user wrote: dsctl.yaml, held against reference.yml, which is schema, documentation and fixture at once."""
