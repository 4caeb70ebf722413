"""Load tests whose numbers can be trusted: a seeded schedule, an exact stream reader, raw records, statistics."""
