#!/usr/bin/env bash
# What: the whole of mgie once round: make a data set, train an editor, turn it into a release, edit pictures, measure.
# On:   any machine with Python >= 3.10; two CPU cores are enough, no GPU, no weights to fetch.
# Time: one to three minutes to install, then about twelve. Run again, it reuses what is done; interrupted, it goes on.
# Puts: .venv, _data/toy, _data/examples, _ckpt/runs/tiny, _ckpt/tiny (the release), _ckpt/tiny-edits, _ckpt/tiny-report.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh toy

step() { printf '\n== %s\n' "$*"; }
older() { [ ! -e "$1" ] || [ "$2" -nt "$1" ]; }  # $1 is missing, or was made before $2

step "1/5 prepare: edit pairs, rendered scenes and real photographs"
mgie prepare toy --out _data/toy

step "2/5 train: an editor on these pairs"
mgie train --config tiny

step "3/5 extract: the run becomes a release"
release=_ckpt/tiny/model_index.json
if older $release _ckpt/runs/tiny/checkpoints; then
    rm -rf _ckpt/tiny
    mgie extract _ckpt/runs/tiny --out _ckpt/tiny
fi

step "4/5 edit: photographs and scenes that were held out"
python -c '
from pathlib import Path
from mgie.data.toy import toy_pairs
from mgie.data.toy_photos import SPLITS, photo
folder = Path("_data/examples")
folder.mkdir(parents=True, exist_ok=True)
for name in SPLITS["test"]:
    photo(name).save(folder / f"{name}.png")
for number, pair in enumerate(toy_pairs(3, seed=1, split="test", size=64, kinds=["recolour"]), start=1):
    (folder / f"scene-{number}.png").write_bytes(pair.source)'
edit() {  # NAME INSTRUCTION PHOTO...
    if older "_ckpt/tiny-edits/$1/.done" $release; then
        mgie edit "${@:3}" "$2" --model _ckpt/tiny --out "_ckpt/tiny-edits/$1"
        touch "_ckpt/tiny-edits/$1/.done"
    fi
}
edit grey "make it black and white" _data/examples/{cat,coffee,flower}.png
edit dark "make it darker" _data/examples/{cat,coffee,flower}.png
edit pink "make the background pink" _data/examples/scene-{1,2,3}.png

step "5/5 evaluate: fresh held-out pairs, each output judged"
report=_ckpt/tiny-report
if older $report/results.json $release; then
    mgie evaluate --model _ckpt/tiny --suite toy --out $report > /dev/null
fi

cat $report/report.md
cat <<END
before / said / after / target   $report/sheet.png   (all of them: $report/report.html)
edited photographs and scenes    _ckpt/tiny-edits/
the release                      _ckpt/tiny

Try next:
  mgie edit YOUR_PHOTO.jpg "make it look like an old photo" --model _ckpt/tiny --out out.png
  mgie evaluate --model _ckpt/tiny --suite toy --seed 2 --out _ckpt/tiny-report-2
  mgie train --config tiny --name longer --train.samples 80000
(first: source .venv/bin/activate)
END
