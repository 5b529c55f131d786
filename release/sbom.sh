#!/usr/bin/env bash
# Writes a software bill of materials in CycloneDX for the program of each architecture: the crates that it consists of, and
# their macros.
source "$(dirname "$0")/common.sh"
release=0.5.9

tools=$target/release-tools-$release
if [ ! -x "$tools/bin/cargo-cyclonedx" ]; then
    env --unset=CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0 \
        "$cargo" install --quiet --locked --debug --root "$tools" "cargo-cyclonedx@$release"
fi

# cargo-cyclonedx writes into the folders of all crates, and includes their paths. So it works on a copy.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git ls-files -z -- Cargo.lock '*.toml' '*.rs' | xargs -0 cp --parents --target-directory "$folder"
mkdir -p "$out"
for arch in "${architectures[@]}"; do
    # With SOURCE_DATE_EPOCH, it writes no serial number, which would be random.
    "$tools/bin/cargo-cyclonedx" cyclonedx --manifest-path "$folder/Cargo.toml" --format json --spec-version 1.5 --quiet \
        --no-build-deps --target "${rust_target[$arch]}" --override-filename sbom
    sed "s|$folder|/roster|g" "$folder/sbom.json" >"$out/roster-$version-linux-$arch.cdx.json"
done
