#!/usr/bin/env bash
# Builds the release again, from a clone in another folder where nothing is compiled yet, and compares all bytes with those
# in target/release-artifacts.
source "$(dirname "$0")/common.sh"

if [ -n "$(git status --porcelain)" ]; then
    echo "commit your changes first: the second build is that of the last commit" >&2
    exit 1
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git clone --quiet . "$folder/roster"
CARGO_TARGET_DIR=$folder/target "$folder/roster/release/release.sh" >/dev/null
diff --recursive --brief "$out" "$folder/target/release-artifacts"
echo "the second build has the same bytes"
