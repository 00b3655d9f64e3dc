"""A recording as films and pictures: charts beside overlays, filmstrips, how the maps drift, and a page."""

from camcore.films.drift_chart import drift_chart, save_drift_chart
from camcore.films.film import save_gif, save_webp
from camcore.films.filmstrip import filmstrip, save_filmstrip
from camcore.films.frames import Film, frames_of
from camcore.films.timeline import save_timeline

__all__ = [
    "Film",
    "drift_chart",
    "filmstrip",
    "frames_of",
    "save_drift_chart",
    "save_filmstrip",
    "save_gif",
    "save_timeline",
    "save_webp",
]
