"""Rewrite a LeRobot v2.1 data set in the v3.0 layout: several episodes a file, offsets in `meta/episodes`.

After huggingface/lerobot `convert_dataset_v21_to_v30.py`; videos are concatenated without coding them again.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import pyarrow as pa
import pyarrow.parquet as pq

DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


def convert(source: Path, target: Path, *, tables: Sequence[int], videos: Sequence[int]) -> None:
    """`tables` and `videos` hold, for each episode, the number of the file that it goes into."""
    info = json.loads((source / "meta/info.json").read_text())
    episodes = [json.loads(line) for line in (source / "meta/episodes.jsonl").read_text().splitlines()]
    tasks = [json.loads(line) for line in (source / "meta/tasks.jsonl").read_text().splitlines()]
    keys = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    rows = [dict(episode) for episode in episodes]
    _convert_tables(source, target, info, rows, tables)
    for key in keys:
        _convert_videos(source, target, info, rows, videos, key)
    for row in rows:
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
    _write(pa.Table.from_pylist(rows), target / "meta/episodes/chunk-000/file-000.parquet")
    # pandas' index of sentences, as the converter leaves it
    index = pa.table({"task_index": [t["task_index"] for t in tasks], "__index_level_0__": [t["task"] for t in tasks]})
    _write(index, target / "meta/tasks.parquet")
    for key in ("total_chunks", "total_videos"):
        info.pop(key, None)
    info |= {"codebase_version": "v3.0", "data_path": DATA, "video_path": VIDEO}
    info |= {"data_files_size_in_mb": 100, "video_files_size_in_mb": 200}
    (target / "meta/info.json").write_text(json.dumps(info))


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _old(source: Path, info: dict[str, Any], kind: str, episode: int, key: str = "") -> Path:
    return source / info[kind].format(episode_chunk=0, episode_index=episode, video_key=key)


def _convert_tables(
    source: Path, target: Path, info: dict[str, Any], rows: list[dict[str, Any]], files: Sequence[int]
) -> None:
    start = 0
    for file in sorted(set(files)):
        parts = []
        for row in (r for r, f in zip(rows, files, strict=True) if f == file):
            parts.append(pq.read_table(_old(source, info, "data_path", row["episode_index"])))
            row |= {"data/chunk_index": 0, "data/file_index": file}
            row |= {"dataset_from_index": start, "dataset_to_index": start + row["length"]}
            start += row["length"]
        _write(pa.concat_tables(parts), target / DATA.format(chunk_index=0, file_index=file))


def _convert_videos(
    source: Path, target: Path, info: dict[str, Any], rows: list[dict[str, Any]], files: Sequence[int], key: str
) -> None:
    for file in sorted(set(files)):
        path = target / VIDEO.format(video_key=key, chunk_index=0, file_index=file)
        own = [r for r, f in zip(rows, files, strict=True) if f == file]
        sources = [_old(source, info, "video_path", r["episode_index"], key) for r in own]
        for row, (start, stop) in zip(own, concatenate(sources, path), strict=True):
            row |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": file}
            row |= {f"videos/{key}/from_timestamp": start, f"videos/{key}/to_timestamp": stop}


def concatenate(sources: Sequence[Path], target: Path) -> list[tuple[float, float]]:
    """Join videos packet by packet; returns when each starts and stops, in seconds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    spans = []
    with av.open(str(target), "w") as out:
        stream, offset = None, 0
        for source in sources:
            with av.open(str(source)) as video:
                track = video.streams.video[0]
                stream = stream or out.add_stream_from_template(track, opaque=True)
                for packet in video.demux(track):
                    if packet.pts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = stream
                    out.mux(packet)
                base, duration = track.time_base, track.duration
            spans.append((float(offset * base), float((offset + duration) * base)))
            offset += duration
    return spans
