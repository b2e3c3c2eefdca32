"""Parts that say where things belong: regions, layouts."""
