"""Diffusion over a history: noise schedules, the forward and the reverse process, the U-Net, drift of interests."""
