#!/bin/sh
# Prose and comments within 100 columns, as rustfmt.toml says of code: what rustfmt leaves
# alone. A row of a table and a picture are one line, however long.
set -eu
cd "$(dirname "$0")/.."
LC_ALL=C.UTF-8
export LC_ALL
status=0
# long FILES COUNT NOT: of the files, lines that count, but for those that do not.
long() {
    git ls-files "$1" | xargs grep -nE '^.{101,}' | grep -E "$2" | grep -vE "$3" && status=1
    return 0
}
long '*.wgsl' '^[^:]*:[0-9]+: *//' '^$'
long '*.rs' '^[^:]*:[0-9]+: *//' '^[^:]*:[0-9]+: *//[/!] \|'
long '*.md' : '^[^:]*:[0-9]+:(\||!\[)'
[ "$status" -eq 0 ] || { echo 'lines: these are over 100 columns'; exit 1; }
