#!/usr/bin/env bash
# Builds kubeconform and kube-score from the versions that go.mod pins, once, into a cache outside the project, and
# prints the folder. It takes a minute; the test that needs them runs it.
#
# The cache is ${ROSTER_CACHE:-${XDG_CACHE_HOME:-~/.cache}/roster}; its key is the module's checksums.
set -euo pipefail
cd "$(dirname "$0")"

key=$(cat go.mod go.sum build.sh | sha256sum | cut -c1-12)
cache=${ROSTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/roster}
bin=$cache/linters-$key
if [ -e "$bin/.complete" ]; then echo "$bin"; exit 0; fi

if ! command -v go >/dev/null; then
    echo "go is missing: install Go 1.26 or later (https://go.dev/doc/install)" >&2
    exit 1
fi
mkdir -p "$cache"
exec 9>"$cache/.linters.lock"
flock 9
if [ -e "$bin/.complete" ]; then echo "$bin"; exit 0; fi

echo "Building kubeconform and kube-score from source, once; it takes a minute." >&2
rm -rf "$bin.part"
mkdir -p "$bin.part"
GOFLAGS= go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$bin.part/" tool >&2
for tool in kubeconform kube-score; do test -x "$bin.part/$tool"; done
touch "$bin.part/.complete"
rm -rf "$bin"
mv "$bin.part" "$bin"
echo "$bin"
