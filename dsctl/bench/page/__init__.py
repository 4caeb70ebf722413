"""The locustfile, alone: locust puts its folder before the standard library's modules."""
