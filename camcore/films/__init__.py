"""A recording as films and pictures: charts beside overlays, filmstrips, and how the maps drift."""
