#!/usr/bin/env bash
# The experiments of docs/training.md: models of several modes and seeds, and their evaluation. A
# run that was stopped goes on where it was. Flags of `train` may follow, and are put behind those
# of the experiment. What takes how long, on one core:
#
#     small       RoPE, EC, EH and the control, three seeds: 70 to 100 s a model
#     positions   ALiBi and no positions in the same sizes, one seed
#     milton      RoPE and EC on another text
#     long        RoPE and EC at twice the length
#     reference   the sizes of the reference run: 10 to 15 minutes a model
#     gpu         for a real one
#     tiny        all of the above's steps in a minute or two, to see that they run
#
#     scripts/train-experiment.sh [small|positions|milton|long|reference|gpu|tiny] [FLAGS...]
set -euo pipefail
cd "$(dirname "$0")/../burn"
name=${1:-small}
[ $# -eq 0 ] || shift

text=shakespeare
modes=(rope ec eh control)
seeds=(0 1 2)
backend=cpu
characters=(32768 16384)
sizes=(--layers 2 --hidden 64 --heads 2 --ctx 64 --batch 32 --steps 800 --lr 3e-3)
case $name in
    small) ;;
    positions)
        modes=(alibi none)
        seeds=(0)
        ;;
    milton)
        text=milton
        modes=(rope ec)
        ;;
    long)
        sizes+=(--ctx 128 --batch 16)
        modes=(rope ec)
        ;;
    reference) sizes=() ;; # what `train` takes unless told otherwise
    gpu)
        sizes=(--layers 6 --hidden 384 --heads 6 --ctx 512 --batch 32 --steps 5000 --lr 1e-3)
        backend=gpu
        ;;
    tiny)
        sizes=(--layers 1 --hidden 16 --heads 2 --ctx 16 --batch 4 --steps 20 --checkpoint-every 10)
        modes+=(alibi none)
        seeds=(0 1)
        characters=(1024 1024)
        ;;
    *)
        echo "train-experiment: $name is no experiment; they stand at the head of $0" >&2
        exit 1
        ;;
esac
[ -e "runs/$text" ] || ../scripts/fetch-shakespeare.sh "runs/$text" "$text"
cargo build --locked --bin train
train=${CARGO_TARGET_DIR:-target}/debug/train

runs=()
for seed in "${seeds[@]}"; do
    for mode in "${modes[@]}"; do
        run=runs/$name/$mode-$seed
        "$train" --backend "$backend" --text "runs/$text" --mode "$mode" --seed "$seed" \
            "${sizes[@]}" "$@" --out "$run"
        runs+=("$run")
    done
done
"$train" evaluate "${runs[@]}" --backend "$backend" --characters "${characters[0]}" --ablation 1 \
    --reach full,sliding,linear,ntk,yarn --out "runs/$name/evaluation"
"$train" evaluate "${runs[@]}" --backend "$backend" --characters "${characters[1]}" --all-steps \
    --times 1,8 --out "runs/$name/evaluation-steps"
