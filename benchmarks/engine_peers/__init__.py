"""Measures this engine and its peers (llama.cpp, vLLM, transformers) on one model, on one machine, in one run."""
