"""Writers of the published layouts, for the tests of the readers."""

import json

import pytest
from datasets import Dataset, Features, Image, Value


@pytest.fixture
def ipr2pr_folder(tmp_path, make_picture):
    """Prompts with two seeds each, as InstructPix2Pix publishes them."""

    def write(prompts=3, *, scores=True, listed=True):
        folder = tmp_path / "ip2p"
        seeds = []
        for number in range(prompts):
            prompt = folder / f"{number:07d}"
            prompt.mkdir(parents=True)
            (prompt / "prompt.json").write_text(
                json.dumps({"edit": f"edit {number}", "input": f"a {number}", "output": f"b {number}"})
            )
            own = [str(number * 10 + k) for k in (1, 2)]
            seeds.append([prompt.name, own])
            lines = []
            for k, seed in enumerate(own):
                for side in (0, 1):
                    (prompt / f"{seed}_{side}.jpg").write_bytes(
                        make_picture(seed=number * 10 + side, form="JPEG")
                    )
                lines.append(
                    {
                        "seed": int(seed),
                        "p2p_threshold": 0.5,
                        "cfg_scale": 9.0,
                        "clip_sim_0": 0.3,
                        "clip_sim_1": 0.3,
                        "clip_sim_dir": 0.25 - 0.1 * k,
                        "clip_sim_image": 0.9,
                    }
                )
            if scores:
                (prompt / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if listed:
            (folder / "seeds.json").write_text(json.dumps(seeds))
        return folder

    return write


@pytest.fixture
def parquet(tmp_path):
    """Rows as a Parquet file with picture columns, as hubs keep them."""

    def write(name, rows, pictures):
        features = {
            key: Value("int32") if isinstance(value, int) else Value("string")
            for key, value in rows[0].items()
        }
        features |= {key: Image() for key in pictures}
        rows = [
            row | {key: row[key] and {"bytes": row[key], "path": None} for key in pictures} for row in rows
        ]
        path = tmp_path / "hub" / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(rows, features=Features(features)).to_parquet(str(path))
        return tmp_path / "hub"

    return write
