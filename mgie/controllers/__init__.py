"""How a user says where: each controller turns what belongs where into a plan for the denoiser."""
