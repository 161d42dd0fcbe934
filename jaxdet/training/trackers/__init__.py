"""Where a run's config, curves, pictures and tables go besides its own folder."""
