"""Names of the user's in pictures and pages are text, neither formulas nor markup."""

from html.parser import HTMLParser

from lossatlas.render import report, style
from lossatlas.render.figures.contour import contour_figure

from tests.unit.test_render import CHOICES, datasets

CRUEL = r"<script>alert('ü')</script> $\frac{$ & \"x\""


class Page(HTMLParser):
    """What a browser finds: the tags, and the text of the title."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.title = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.title += data if self.tags[-1:] == ["title"] else ""


def test_labels_of_directions_are_no_formulas():
    landscape, _ = datasets()
    landscape.attrs |= {"x_label": CRUEL, "y_label": "one $ alone"}
    x, y = style.axis_labels(landscape)
    figure = contour_figure(landscape, CHOICES, "title")
    figure.canvas.draw()
    shown = [axes.get_xlabel() for axes in figure.axes]
    assert x in shown
    assert x.replace(r"\$", "$").startswith(CRUEL)
    assert y.replace(r"\$", "$").startswith("one $ alone")


def test_titles_of_pages_are_no_markup(tmp_path):
    video = tmp_path / f"{CRUEL.replace('/', '')}.mp4"
    video.write_bytes(b"video")
    page = Page(report.player(video, CRUEL))
    assert "script" not in page.tags
    assert page.title.strip() == CRUEL
