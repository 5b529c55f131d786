#!/usr/bin/env bash
# Packs the kubectl plugin of each architecture, and writes its Krew manifest. The plugin is the program `roster` under
# another name.
source "$(dirname "$0")/common.sh"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$out"
install -m 0644 LICENSE "$folder/LICENSE"
manifest=$(sed -e "s|@VERSION@|$version|g" -e "s|@URL@|$url|g" release/krew.yaml)
for arch in "${architectures[@]}"; do
    file=kubectl-roster-$version-linux-$arch.tar.gz
    install -m 0755 "$build/${rust_target[$arch]}/release/roster" "$folder/kubectl-roster"
    archive "$folder" LICENSE kubectl-roster | gzip --no-name --best >"$out/$file"
    sum=$(sha256sum "$out/$file" | cut -d' ' -f1)
    manifest=${manifest//@SHA256_${arch^^}@/$sum}
done
printf '%s\n' "$manifest" >"$out/krew.yaml"
