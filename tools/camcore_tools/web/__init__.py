"""``camcore export --web``: a folder that shows a model's heatmaps in any browser, without a server behind it."""
