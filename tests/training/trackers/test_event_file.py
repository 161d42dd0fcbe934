"""Event files are what TensorFlow's definitions of them say, as tensorboardX has these."""

from __future__ import annotations

import pytest
from tensorboardX.proto.event_pb2 import SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import scalar, text

from jaxdet.training.trackers import event_file
from jaxdet.training.trackers.event_file import EventFile
from tests.events import read_events


@pytest.mark.parametrize("step", [0, 1, 127, 128, 300_000, 2**40])
def test_a_file_is_read_by_its_definition(tmp_path, step):
    events = EventFile(tmp_path)
    events.restart(step)
    events.write(step, event_file.scalars({"loss": 0.5, "val/box AP": 1e-4}))
    events.close()
    first, start, points = read_events(tmp_path)
    assert first.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (step, SessionLog.START)
    assert points.step == step
    assert points.summary == Summary(
        value=[*scalar("loss", 0.5).value, *scalar("val/box AP", 1e-4).value]
    )


def test_two_files_of_a_second_are_two(tmp_path):
    for _ in range(3):
        EventFile(tmp_path).close()
    assert len(list(tmp_path.iterdir())) == 3


def test_what_is_not_finite_stays_so():
    found = Summary.FromString(event_file.scalars({"a": 1e300, "b": -1e300, "c": float("nan")}))
    assert [str(value.simple_value) for value in found.value] == ["inf", "-inf", "nan"]


def test_pictures_and_texts():
    (picture,) = Summary.FromString(event_file.picture("p", b"PNG" * 99, 300, 20)).value
    assert (picture.tag, picture.image.height, picture.image.width) == ("p", 300, 20)
    assert picture.image.encoded_image_string == b"PNG" * 99
    (found,) = Summary.FromString(event_file.text("t", "| ä |")).value
    (expected,) = text("t", "| ä |").value
    assert found.tensor == expected.tensor
    assert found.metadata.plugin_data.plugin_name == "text"
