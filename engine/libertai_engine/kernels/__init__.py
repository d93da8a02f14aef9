"""Native kernels: linear layers in C++, compiled on this machine when they are first needed.

In: torch tensors. Out: torch tensors, or a reason why this machine has no native kernels, and then
torch's own do the work.
"""
