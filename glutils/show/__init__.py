"""What a reader sees: figures with alt text, tables, and sliders that also work in a static page.

Every function here displays and returns nothing, so it may end a cell. Figures take their look from one style file
inside a context, so importing or calling this package changes no global setting.
"""

from .choice import Frame, choice, choice_html, frame
from .figures import decibels, figure, style
from .frames import frames_html, scrubber, strengths
from .heat import heat
from .images import gallery
from .lines import curves
from .palette import Look, look, looks
from .records import records
from .tables import table, table_html
from .texts import text_scrubber, texts

__all__ = [
    "Frame", "Look", "choice", "choice_html", "curves", "decibels", "figure", "frame", "frames_html", "gallery", "heat",
    "look", "looks", "records", "scrubber", "strengths", "style", "table", "table_html", "text_scrubber", "texts",
]  # fmt: skip
