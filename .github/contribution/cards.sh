#!/usr/bin/env bash
# Check the cards that a commit changes, as data: blobs are written out, nothing is checked out.
# usage: cards.sh REMOTE COMMIT FOLDER
set -euo pipefail
remote=$1 commit=$2 folder=$3
[[ $commit =~ ^[0-9a-f]{40}$ ]] || { echo "no commit: $commit" >&2; exit 1; }
git -c protocol.ext.allow=never fetch --quiet --no-tags -- "$remote" "$commit"
base=$(git merge-base HEAD "$commit")
mkdir -p "$folder" proposed
number=0
while IFS= read -r -d '' path; do
  [[ $path =~ ^registry/models/[a-z0-9][a-z0-9._-]*/([a-z0-9][a-z0-9._-]*)\.yaml$ ]] || continue
  name=${BASH_REMATCH[1]} number=$((number + 1))
  [ "$number" -le 50 ] || { echo "more than 50 cards: only the first are looked at"; break; }
  [ "$(git cat-file -s "$commit:$path")" -le 1000000 ] || { echo "$name: too large"; continue; }
  mkdir -p "proposed/$number"
  git cat-file blob "$commit:$path" > "proposed/$number/$name.yaml"
  matteratlas contribute check "proposed/$number/$name.yaml" --card-only || [ $? -eq 1 ]
  mv "proposed/$number/report.json" "$folder/$name.json"
done < <(git diff -z --no-renames --name-only --diff-filter=AM "$base" "$commit" -- registry/models)
