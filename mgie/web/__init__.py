"""The page in a browser: pictures are edited by one worker, for whoever is let in."""
