"""The arithmetic of diffusion, over the library's schedulers. No weights here."""
