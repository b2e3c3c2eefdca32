"""How a user says where: what belongs where becomes a plan for the denoiser."""
