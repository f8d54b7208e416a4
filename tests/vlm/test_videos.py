"""Films as files: what FFmpeg would open besides is never opened, and damage is an error that says so."""

import io

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlxlm.errors import MediaError
from mlxlm.processors.messages import MediaPolicy, Source
from mlxlm.processors.videos import VideoProcessor, open_video

POLICY = MediaPolicy()


def film(frames=12, rate=6, size=(64, 48), format="mp4", codec="mpeg4") -> bytes:
    """A film whose frame i is grey of brightness 20 i."""
    out = io.BytesIO()
    with av.open(out, "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(frames):
            grey = np.full((size[1], size[0], 3), 20 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


WHOLE = film()


def opened(source, processor=None, **policy):
    return open_video(source, MediaPolicy(**policy), processor or VideoProcessor())


def test_frames_rate_and_times(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(WHOLE)
    for source in (path, str(path), f"file://{path}", WHOLE, io.BytesIO(WHOLE)):
        clip = opened(source)
        assert (len(clip.frames), clip.fps, clip.duration) == (12, 6.0, 2.0)
        assert clip.seconds[3] == 0.5 and clip.frames[0].size == (64, 48)
        assert [round(np.asarray(f).mean() / 20) for f in clip.frames] == list(range(12))
    sampler = VideoProcessor(fps=2)
    assert opened(WHOLE, sampler).indices == [0, 3, 6, 9] and opened(WHOLE, sampler).taken_fps == 2
    assert opened(film(format="matroska"), sampler).indices == [0, 3, 6, 9]  # which doesn't tell how many there are


@pytest.mark.parametrize("text", [
    "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n",
    "ffconcat version 1.0\nfile {}\n",
    "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period><AdaptationSet>"
    "<Representation id='1' bandwidth='1'><BaseURL>{}</BaseURL><SegmentBase/></Representation></AdaptationSet>"
    "</Period></MPD>",
    "[Reference]\nRef1={}\n", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 1234 RTP/AVP 96\n",
])
def test_lists_of_other_files_are_no_films(tmp_path, text):
    inner = tmp_path / "film.mp4"
    inner.write_bytes(WHOLE)
    for name in (inner, f"file://{inner}", "http://127.0.0.1:9/film.mp4"):
        outer = tmp_path / "list.m3u8"
        outer.write_text(text.format(name))
        for source in (outer, outer.read_bytes()):
            with pytest.raises(MediaError, match="no video that can be read"):
                opened(source)


@pytest.mark.parametrize("source, problem", [
    (b"", "no video"), (b"text" * 100, "no video"), ("/no/such.mp4", "not there"), ("concat:/etc/passwd", "not there"),
    ("rtsp://127.0.0.1/x", "only http and https"), (7, "not a video"), ([], "number of frames"),
    ({"frames": [Image.new("RGB", (4, 4))], "fps": -1}, "frames a second"),
    ([Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5))], "differ in size"), ([b"junk"], "frame 0"),
])
def test_what_is_no_video(source, problem):
    with pytest.raises(MediaError, match=problem):
        opened(source)


def test_limits_and_trust(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(WHOLE)
    with pytest.raises(MediaError, match="pixels"):
        opened(WHOLE, max_pixels=1000)
    with pytest.raises(MediaError, match="too many frames"):
        opened(WHOLE, max_frames=3)
    with pytest.raises(MediaError, match="too large"):
        opened(WHOLE, max_video_bytes=100)
    with pytest.raises(MediaError, match=r"messages\[0\].*may not name files"):
        opened(Source("video", str(path), False, "messages[0]"))
    with pytest.raises(MediaError, match=r"frame 0.*may not name files"):
        opened(Source("video", [str(path)], False, "messages[0]"))


@settings(max_examples=60)
@given(st.data())
def test_damaged_films_raise_nothing_else(draw):
    cut = bytearray(WHOLE)
    for _ in range(draw.draw(st.integers(1, 8))):
        cut[draw.draw(st.integers(0, len(cut) - 1))] = draw.draw(st.integers(0, 255))
    try:
        clip = opened(bytes(cut[: draw.draw(st.integers(1, len(cut)))]), max_pixels=1 << 20)
    except MediaError:
        return
    assert len(clip.frames) == len(clip.indices) > 0
