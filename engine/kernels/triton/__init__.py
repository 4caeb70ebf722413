"""The ops in Triton for NVIDIA GPUs; `TRITON_INTERPRET=1` runs them on a CPU, slowly, which is how they are tested."""
