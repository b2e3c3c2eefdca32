"""The editor and its parts: only tensors in, tensors out. No files, devices, ranks or random numbers."""
