"""The reports: everything inside, nothing fetched, and the settings make the run again."""

import base64
import re
from html.parser import HTMLParser

import imageio_ffmpeg
import matplotlib.image
import pytest
import yaml
from lossatlas import config
from lossatlas.io.store import open_finished

from tests.conftest import snakemake
from tests.workflow.conftest import test_config, write_config

pytestmark = pytest.mark.workflow


class Page(HTMLParser):
    """Collects sources, links, anchors and text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.sources, self.links, self.anchors, self.text = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.sources += [(tag, attributes["src"])] if "src" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        self.anchors |= {attributes.get("id")}

    def handle_data(self, data):
        self.text.append(data)


def decode(source: str, folder) -> tuple[str, object]:
    """Write an embedded file and return its type and path."""
    kind, encoded = re.fullmatch(r"data:(\w+/\w+);base64,(.*)", source).groups()
    file = folder / f"embedded.{kind.split('/')[1]}"
    file.write_bytes(base64.b64decode(encoded))
    return kind, file


def test_the_report_holds_pictures_and_videos_and_fetches_nothing(undisturbed, tmp_path):
    page = Page((undisturbed / "results/tiny/report.html").read_text())
    assert [tag for tag, _ in page.sources] == (["video"] + ["img"] * 3) * 3 + ["img"] + ["img"] * 9
    assert all(link.startswith("#") and link[1:] in page.anchors for link in page.links)
    planes = ["eigen", "pca", "random"]  # the order of the config that the test wrote
    for tag, source in page.sources:
        kind, file = decode(source, tmp_path)
        if tag == "video":
            assert kind == "video/mp4"
            assert file.read_bytes() == (undisturbed / f"results/tiny/video/{planes.pop(0)}.mp4").read_bytes()
            reader = imageio_ffmpeg.read_frames(str(file))
            assert next(reader)["size"] == (1280, 720)
            assert sum(1 for _ in reader) == 16
        else:
            assert matplotlib.image.imread(file).std() > 0.05


def test_the_report_says_what_made_it(undisturbed):
    text = "".join(Page((undisturbed / "results/tiny/report.html").read_text()).text)
    for name in (
        "trajectory",
        "directions/pca",
        "directions/eigen",
        "landscape/random",
        "spectra",
        "spectra_between/training",
        "curvature/random",
        "tracking",
        "curves/gaussian",
        "curves/training",
    ):
        store = open_finished(undisturbed / f"results/tiny/{name}.zarr")
        assert store.fingerprint[:12] in text
        assert store.attrs["content"][:12] in text
    for said in (
        "lenet with 62,006 parameters",
        "torch",
        "2.13.0",
        "Pearlmutter",
        "NeurIPS 2018",
        "Goodfellow",
        "D.-C. Zhan",
        "tiny/landscape/pca",
    ):
        assert said in text


def test_settings_in_the_report_make_the_run_again(undisturbed):
    page = (undisturbed / "results/tiny/report.html").read_text()
    settings = yaml.safe_load(re.search(r"<pre>(.*?)</pre>", page, re.DOTALL)[1].replace("&#39;", "'"))
    assert config.resolve(settings) == config.resolve(test_config())


def test_the_player_holds_its_video(undisturbed, tmp_path):
    ((tag, source),) = Page((undisturbed / "results/tiny/video/eigen.html").read_text()).sources
    assert tag == "video"
    _, file = decode(source, tmp_path)
    assert file.read_bytes() == (undisturbed / "results/tiny/video/eigen.mp4").read_bytes()


def test_snakemakes_report_has_categories_labels_and_captions(undisturbed, tmp_path):
    file = write_config(undisturbed, test_config())
    snakemake("--configfile", str(file), "--report", str(tmp_path / "report.html"), cwd=undisturbed)
    text = (tmp_path / "report.html").read_text()
    for said in ("plane eigen", "bars are 95 %", "one frame per recorded iteration"):
        assert said in text
    assert text.count('"labels": {"picture"') == 22
    for group, count in (
        ("plane pca", 4),
        ("plane random", 5),
        ("directions pca", 1),
        ("spectra", 4),
        ("line training", 1),
        ("tracking", 1),
        ("curve gaussian", 1),
        ("curve training", 1),
    ):
        assert len(re.findall(rf'"labels": \{{"picture": "\w+", "where": "{group}"', text)) == count
