#!/usr/bin/env bash
# The experiment of docs/training.md: models of every mode from three seeds, and their evaluation.
# A run that was stopped goes on where it was. Of the sizes, `small` takes 70 to 100 s of one core a
# model, `milton` the same on another text, `reference` 10 to 15 minutes a model; `gpu` is for a
# real one.
#
#     scripts/train-experiment.sh [small|milton|reference|gpu] [FLAGS OF train...]
set -euo pipefail
cd "$(dirname "$0")/../burn"
size=${1:-small}
[ $# -eq 0 ] || shift

text=shakespeare
modes=(rope ec eh control)
seeds=(0 1 2)
small=(--layers 2 --hidden 64 --heads 2 --ctx 64 --batch 32 --steps 800 --lr 3e-3)
case $size in
    small) sizes=("${small[@]}" --backend cpu) ;;
    milton)
        sizes=("${small[@]}" --backend cpu)
        text=milton
        modes=(rope ec)
        ;;
    reference) sizes=(--backend cpu) ;; # what `train` takes unless told otherwise
    gpu)
        sizes=(--layers 6 --hidden 384 --heads 6 --ctx 512 --batch 32 --steps 5000 --lr 1e-3
            --backend gpu)
        ;;
    *)
        echo "train-experiment: $size is none of small, milton, reference, gpu" >&2
        exit 1
        ;;
esac
[ -e "runs/$text" ] || ../scripts/fetch-shakespeare.sh "runs/$text" "$text"
cargo build --locked --bin train
train=${CARGO_TARGET_DIR:-target}/debug/train

runs=()
for seed in "${seeds[@]}"; do
    for mode in "${modes[@]}"; do
        run=runs/$size/$mode-$seed
        "$train" --mode "$mode" --seed "$seed" --text "runs/$text" "${sizes[@]}" "$@" --out "$run"
        runs+=("$run")
    done
done
backend=(--backend cpu)
[ "$size" != gpu ] || backend=(--backend gpu)
"$train" evaluate "${runs[@]}" "${backend[@]}" --characters 32768 --ablation 1 \
    --reach full,sliding,linear,ntk,yarn --out "runs/$size/evaluation"
"$train" evaluate "${runs[@]}" "${backend[@]}" --characters 16384 --all-steps --times 1,8 \
    --out "runs/$size/evaluation-steps"
