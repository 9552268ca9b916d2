"""Index files of published data sets, a few rows each, in the published headers, and records of TensorFlow."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorboard.summary.writer.record_writer import RecordWriter

from vlfm.clips.index_files.rows import Row

OPENVID = """\
video,caption,aesthetic score,motion score,temporal consistency score,camera motion,frame,fps,seconds
celebv_-_a.mp4,"In the video, a man speaks.",5.25,2.5,0.998,static,60,24.0,2.5
-09LwxXTs_0_6_0to149.mp4,A beach.,4.5,10.0,0.995,pan_left,120,24.0,5.0
third.mp4,"Two ""lines""
of text",6.0,,0.99,"zoom_in,tilt_up",12,24.0,0.5
"""
CLASSES = "1 ApplyEyeMakeup\n2 ApplyLipstick\n65 PlayingViolin\n101 YoYo\n"
UCF_TRAIN = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\nYoYo/v_YoYo_g25_c05.avi 101\n"
UCF_TEST = "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\nApplyLipstick/v_ApplyLipstick_g01_c02.avi\n"
KINETICS = """\
label,youtube_id,time_start,time_end,split,is_cc
abseiling,-3B32lodo2M,59,69,val,0
"air drumming",_dbcJuKJQNs,40,50,train,1
"air drumming",0wR5jVB-WPk,417,427,train,0
"""
INTERNVID = """\
{"YoutubeID": "HdYoyzCSWyw", "Start_timestamp": "00:03:10.567", "End_timestamp": "00:03:12.200", "Caption": "woman \
using a computer mouse and keyboard", "Aesthetic_Score": 4.589844, "UMT_Score": 0.397949}
{"YoutubeID": "_VljYs8BhSE", "Start_timestamp": "00:00:00.500", "End_timestamp": "00:00:03.000", "Caption": "diy gift \
wrap box video", "Aesthetic_Score": 3.203125, "UMT_Score": 0.469482}
"""
MIRADATA_0 = """\
index,video_id,start_frame,end_frame,main_object_caption,background_caption,style_caption,camera_caption,short_caption,\
dense_caption,fps,start_timestep,end_timestep,,
000000008783_AJp_ANXoGoM-000114,AJp_ANXoGoM,163272,166872," some inspect the vehicles","An indoor exhibition",\
polished,wide-angle,A group of people looking at cars on display.,"The vibrant atmosphere of an indoor car show",30,\
1:30:42,1:32:42,,
000000008563_wwqUCcOZBT0-000024,wwqUCcOZBT0,24,72,a,b,c,d,People walk.,"A sequence, of scenes",24,0:00:01,0:00:03,,
"""
MIRADATA_1 = """\
clip_id,source,video_url,video_id,width,height,fps,seconds,timestamp,frame_number,framestamp,file_path,short_caption,\
dense_caption,background_caption,main_object_caption,style_caption,camera_caption
7.0,youtube walking,https://www.youtube.com/watch?v=bFPlCi36RSQ,bFPlCi36RSQ,1280,720,30,62,"['00:01:00.000', \
'00:02:02.500']",1860,"[1800, 3675]",video/000000000/000000000007.000000000.mp4,A street at night.,The vibrant \
atmosphere,b,m,s,c
300.2,pixabay,https://cdn.pixabay.com/vimeo/1/a.mp4,1,1920,1080,24,2,"['00:00:01.000', '00:00:03.000']",48,"[24, 72]",\
video/000000000/000000000300.000000002.mp4,Waves.,Waves break,b,m,s,c
"""
PIXABAY = json.dumps(
    [
        {"path": "folder_01/100325-655758396.mp4", "frame_idx": "0:65", "cap": ["A lake.", "Water."]},
        {
            "path": "folder_02/b.mp4",
            "cap": "Birds fly over the sea.",
            "num_frames": 48,
            "fps": 24.0,
            "cut": [24, 72],
            "crop": [0, 1920, 10, 1070],
            "resolution": {"height": 1080, "width": 1920},
            "aesthetic": 5.5,
        },
    ]
)
VOCABULARY = """\
Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl,Vertical1,Vertical2,Vertical3,WikiDescription
0,788288,/m/03bt1gh,Game,https://en.wikipedia.org/wiki/Game,Games,,,"A game is structured form of play, usually"
1,539945,/m/01mw1,Video game,https://en.wikipedia.org/wiki/Video_game,Games,,,"A video game is"
12,125,/m/07v_b,,,(Unknown),,,
"""


def stretches(rows: list[Row]) -> list[tuple]:
    """Of each row where its video is, from when to when, and whether that is known to be one shot."""
    return [(row.source, row.start, row.end, row.one_shot) for row in rows]


def kinetics(write: Callable[[str, str], Path], name: str, count: int) -> str:
    """An index of that many training clips in the header of Kinetics-400."""
    lines = [f"label {number},{name}{number:09d},{10 * number},{10 * number + 10},train,0" for number in range(count)]
    text = "\n".join(["label,youtube_id,time_start,time_end,split,is_cc", *lines])
    return str(write(f"{name}.csv", text))


def example_class():
    """TensorFlow's `Example`, told to the protobuf library as TensorFlow's own sources declare it."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")

    def message(name, *fields, within=None):
        made = (within.nested_type if within else file.message_type).add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, 1):
            label = made.field.add(name=field, number=number, label=3 if repeated else 1)
            if isinstance(kind, str):
                label.type, label.type_name = 11, kind
            else:
                label.type = kind
        return made

    message("BytesList", ("value", 12, True))
    message("FloatList", ("value", 2, True))
    message("Int64List", ("value", 3, True))
    message(
        "Feature",
        ("bytes_list", ".tensorflow.BytesList", False),
        ("float_list", ".tensorflow.FloatList", False),
        ("int64_list", ".tensorflow.Int64List", False),
    )
    features = message("Features", ("feature", ".tensorflow.Features.FeatureEntry", True))
    entry = message("FeatureEntry", ("key", 9, False), ("value", ".tensorflow.Feature", False), within=features)
    entry.options.map_entry = True
    message("Example", ("features", ".tensorflow.Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def example(name: bytes, labels: list[int]) -> bytes:
    """A video-level record of YouTube-8M."""
    made = example_class()()
    made.features.feature["id"].bytes_list.value.append(name)
    made.features.feature["labels"].int64_list.value.extend(labels)
    made.features.feature["mean_rgb"].float_list.value.extend([0.5] * 1024)
    made.features.feature["mean_audio"].float_list.value.extend([-0.5] * 128)
    return made.SerializeToString()


def write_records(path: Path, records: list[bytes]) -> None:
    """A TFRecord file."""
    file = io.BytesIO()
    writer = RecordWriter(file)
    for record in records:
        writer.write(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())


def write_zip(path: Path, members: dict[str, bytes], parts: int = 1) -> None:
    """A zip archive, or the parts of a split one, `NAME_partaa` and on."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    data = file.getvalue()
    if parts == 1:
        path.write_bytes(data)
    else:
        size = -(-len(data) // parts)
        for number in range(parts):
            part = path.with_name(f"{path.stem}_parta{'abcdefgh'[number]}")
            part.write_bytes(data[number * size : (number + 1) * size])
