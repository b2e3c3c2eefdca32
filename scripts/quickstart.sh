#!/usr/bin/env bash
# What: the whole of mgie once round: make a data set, train an editor, turn it into a release, edit pictures, measure.
# On:   any machine with Python >= 3.10; two CPU cores are enough, no GPU, no weights to fetch.
# Time: about three minutes to install (four with CUDA), then about twelve. Run again, it reuses what is done; interrupted, it goes on.
# Puts: .venv, _data/toy, _data/examples, _ckpt/runs/tiny, _ckpt/tiny (the release), _ckpt/tiny-edits, _ckpt/tiny-report.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh toy
data=_data/toy examples=_data/examples run=_ckpt/runs/tiny model=_ckpt/tiny edits=_ckpt/tiny-edits report=_ckpt/tiny-report

step() { printf '\n== %s\n' "$*"; }
older() { [ ! -e "$1" ] || [ "$2" -nt "$1" ]; } # $1 is missing, or was made before $2
edit() {                                         # NAME INSTRUCTION SIZE PICTURE...
    if older "$edits/$1/.done" $model/model_index.json; then
        mgie edit "${@:4}" "$2" --size "$3" --model $model --out "$edits/$1" --overwrite
        touch "$edits/$1/.done"
    fi
}

step "1/5 prepare: edit pairs, rendered scenes and real photographs"
mgie prepare toy --out $data

step "2/5 train: an editor on these pairs"
mgie train --config tiny --data.path $data

step "3/5 extract: the run becomes a release"
if older $model/model_index.json $run/checkpoints; then
    mgie extract $run --out $model
fi

step "4/5 edit: photographs and scenes that were held out"
mkdir -p $examples
python -c '
from mgie.toy.pairs import ToyPairs
from mgie.toy.photos import SPLITS, photo
for name in SPLITS["test"]:
    photo(name).save(f"_data/examples/{name}.png")
for number, pair in enumerate(ToyPairs(3, seed=1, split="test", kinds=["recolour"]), start=1):
    open(f"_data/examples/scene-{number}.png", "wb").write(pair.source)'
edit grey "make it black and white" 128 $examples/{cat,coffee,flower}.png
edit dark "make it darker" 128 $examples/{cat,coffee,flower}.png
edit pink "make the background pink" 64 $examples/scene-{1,2,3}.png

step "5/5 evaluate: fresh held-out pairs, each output judged"
if older $report/results.json $model/model_index.json; then
    [ $report/plan.json -nt $model/model_index.json ] || rm -rf $report # what an older release made
    mgie evaluate --model $model --suite toy --out $report > /dev/null
fi
cat $report/report.md - << END

before / said / after / target: $report/sheet.png (all of them: $report/report.html)
edited photographs and scenes:  $edits/
the release:                    $model

Try next, after \`source .venv/bin/activate\`:
  mgie edit YOUR_PHOTO.jpg "make it look like an old photo" --size 128 --model $model --out out.png
  mgie evaluate --model $model --suite toy --seed 2 --out _ckpt/tiny-report-2
  mgie train --config tiny --name longer --train.samples 80000
END
