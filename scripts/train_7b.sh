#!/usr/bin/env bash
# What: MGIE's published training on one node: LLaVA-7B and Stable Diffusion's UNet, on every GPU that is there.
# On:   a node with 8 GPUs of 80 GB (not run at this size here); fewer or smaller ones: scripts/train_7b.sh --train.strategy fsdp2.
# Needs: _ckpt/LLaVA-7B-v1 (docs/weights.md) and _data/ipr2pr (docs/data.md); the project installed with [train].
# Puts: _ckpt/runs/mgie_7b. Run again, it goes on; stopped by SIGTERM or SIGUSR1 it has saved first.
set -euo pipefail
cd "$(dirname "$0")/.."
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
exec torchrun --nproc_per_node="$gpus" --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    -m mgie train --config mgie_7b "$@"
