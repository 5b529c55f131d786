#!/usr/bin/env bash
# Packages the chart, with the published image as the default of image.repository, and in the annotation for Artifact Hub,
# which can then scan it.
source "$(dirname "$0")/common.sh"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp --recursive --dereference charts/roster "$folder"
sed -i "s|^  repository: roster\$|  repository: $image|" "$folder/roster/values.yaml"
grep -qF "  repository: $image" "$folder/roster/values.yaml"
sed -i -e "s|^      image: roster:.*\$|      image: $image:$version|" -e '/^      whitelisted: true$/d' "$folder/roster/Chart.yaml"
grep -qF "      image: $image:$version" "$folder/roster/Chart.yaml"

helm package "$folder/roster" --version "$version" --app-version "$version" --destination "$folder/package" >/dev/null
# Helm records the current time in the archive.
tar --extract --touch --file "$folder/package/roster-$version.tgz" --directory "$folder/package"
mkdir -p "$out"
archive "$folder/package" roster | gzip --no-name --best >"$out/roster-$version.tgz"
