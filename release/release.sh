#!/usr/bin/env bash
# Writes everything that a release consists of to target/release-artifacts. `make release` runs it.
source "$(dirname "$0")/common.sh"

rm -rf "$out"
mkdir -p "$out"
release/programs.sh
release/image.sh
release/plugin.sh
release/chart.sh
chart=$out/roster-$version.tgz
release/manifest.sh "$chart" >"$out/install.yaml"
helm show crds "$chart" >"$out/crds.yaml"
release/sbom.sh
release/notes.sh >"$out/release-notes.md"
(cd "$out" && sha256sum -- * >../SHA256SUMS && mv ../SHA256SUMS .)
cat "$out/SHA256SUMS"
