"""Everything that knows of ranks, devices, optimizers and logs. No other folder may."""
