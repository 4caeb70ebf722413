"""Kernels in C++ for the CPU: compiled on first use for this machine's instruction set, called through ctypes."""
