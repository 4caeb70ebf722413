"""Text in and out of token ids: tokenizer, chat template, detokeniser, stop strings, reasoning (torch-free)."""
