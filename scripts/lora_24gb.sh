#!/usr/bin/env bash
# What: teach a release one's own edits: check the pairs, train low-rank adapters on them, make a release of it.
# On:   one GPU of 24 GB for the 7B release; PAIRS is a folder or a .jsonl of pairs (docs/data.md), 50 or more of them.
# Time: about an hour for 4000 samples on such a card; run again, it goes on where it was.
# Puts: _data/NAME, _ckpt/runs/NAME and _ckpt/NAME (the release with the adapters merged).
#
#   scripts/lora_24gb.sh PAIRS RELEASE NAME [--a.b VALUE ...]      any key of the recipe lora_24gb can be put over it
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "expected PAIRS RELEASE NAME, such as: scripts/lora_24gb.sh my_pairs _ckpt/mgie_7b mine" >&2
    exit 2
fi
pairs=$1 release=$2 name=$3
shift 3
data=${DATA:-_data}/$name runs=${CKPT:-_ckpt}/runs out=${CKPT:-_ckpt}/$name

echo "== 1/3 prepare: the pairs, checked, with a few of them held out"
[ -e "$data/facts.json" ] || mgie prepare "pairs:$pairs" --out "$data" --test "${HELD_OUT:-4}"

echo "== 2/3 train: adapters of the language model and the UNet"
mgie train --config lora_24gb --model.release "$release" --data.path "$data" --out "$runs" --name "$name" "$@"

echo "== 3/3 extract: the adapters become part of a release"
mgie extract "$runs/$name" --out "$out"
echo "edit with it:  mgie edit PHOTO.jpg \"what you taught it\" --model $out --out edited.png"
