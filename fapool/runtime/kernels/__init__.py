"""The project's own GPU kernels, in Triton; every importer guards against a missing triton."""
