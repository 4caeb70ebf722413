"""The API process: OpenAI HTTP, text, metrics, and the life of the core (torch-free; knows the core by wire only)."""
