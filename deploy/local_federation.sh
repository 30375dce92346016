#!/usr/bin/env bash
# A real federation on this machine: a coordinator and three hospitals as separate processes that
# speak TLS over the loopback address, with keys, kits, a signed roster and the hospitals' own
# tables (UCI heart disease: Cleveland, Budapest, Long Beach).
#
#   deploy/local_federation.sh [FOLDER] [RUN] [-- OPTIONS OF fedward submit]
#
# FOLDER (default: federation) gets everything that the parties would have on machines of their
# own; RUN (default: heart_disease) is a run.yaml or a shipped configuration. Example:
#
#   deploy/local_federation.sh /tmp/trial heart_disease -- --set rounds=5
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
[ -d "$root/.venv/bin" ] && PATH="$root/.venv/bin:$PATH"
folder=federation run=heart_disease
[ $# -gt 0 ] && [ "$1" != -- ] && { folder=$1; shift; }
[ $# -gt 0 ] && [ "$1" != -- ] && { run=$1; shift; }
[ "${1:-}" = -- ] && shift
hospitals="cleveland hungarian va"

if [ -e "$folder" ]; then
    echo "$folder is there already; give another folder, or remove it" >&2
    exit 2
fi
mkdir -p -m 700 "$folder"
folder=$(cd "$folder" && pwd)
# Each process computes with one thread: four of them share this machine.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
field() { python -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

started=()
finish() {
    # Only what was started here, by process id; each of them ends its own children.
    for pid in "${started[@]:-}"; do [ -n "$pid" ] && kill "$pid" 2>/dev/null || true; done
    for pid in "${started[@]:-}"; do [ -n "$pid" ] && wait "$pid" 2>/dev/null || true; done
}
trap finish EXIT

say "1. Each hospital has its table, its rules (site.yaml) and makes its own key"
python - "$folder" $hospitals <<'PYTHON'
import sys
from pathlib import Path

import pandas as pd

from fedward.client.data.catalogue import resolve_root

folder, hospitals = Path(sys.argv[1]), sys.argv[2:]
table = pd.read_csv(resolve_root("heart-disease", folder) / "heart_disease_4sites.csv")
for hospital in hospitals:
    home = folder / hospital
    home.mkdir(mode=0o700)
    rows = table[table["site"] == hospital]
    rows.to_csv(home / "patients.csv", index=False)
    print(f"{hospital}: {len(rows)} patients")
PYTHON
members=""
for hospital in $hospitals; do
    cat > "$folder/$hospital/site.yaml" <<YAML
version: 1
site: $hospital
data:
  path: patients.csv
  schema: heart-disease
approve: any         # on a real site: ask
min_cohort: 5
limits:
  epochs: 5
  min_replies: 2
YAML
    key=$(fedward enroll --site "$folder/$hospital/site.yaml" --json | field public_key)
    members+="  - {name: $hospital, public_key: $key, cohort_bound: 400}"$'\n'
done
operator=$(fedward enroll --operator you --key "$folder/you.key" --json | field public_key)

say "2. The coordinator makes the authority, a signed roster and a kit for each"
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > "$folder/consortium.yaml" <<YAML
version: 1
name: three-hospitals
server:
  address: 127.0.0.1:$port
  names: [localhost]
operators:
  - {name: you, public_key: $operator}
sites:
$members
YAML
fingerprint=$(fedward provision "$folder/consortium.yaml" --out "$folder/kits" --json | field fingerprint)
echo "roster $fingerprint"

say "3. Each hospital compares the fingerprint, confirms the roster, and checks itself"
for hospital in $hospitals; do
    site="$folder/$hospital/site.yaml" kit="$folder/kits/site-$hospital"
    fedward approve roster --site "$site" --kit "$kit" --fingerprint "$fingerprint"
done
fedward check "$folder/cleveland/site.yaml" || true # the coordinator is not up yet

say "4. Coordinator and hospitals start"
fedward server --kit "$folder/kits/server" --state "$folder/coordinator" \
    --listen "127.0.0.1:$port" > "$folder/coordinator.log" 2>&1 &
started+=($!)
for hospital in $hospitals; do
    fedward client --kit "$folder/kits/site-$hospital" --site "$folder/$hospital/site.yaml" \
        > "$folder/$hospital/client.log" 2>&1 &
    started+=($!)
done

say "5. The operator submits a run, and follows it"
fedward submit "$run" --kit "$folder/kits/operator-you" --key "$folder/you.key" --wait "$@"

say "6. Each hospital has the model, and its log is whole"
anchors=$(ls -d "$folder"/coordinator/runs/*/ | tail -1)audit.jsonl
for hospital in $hospitals; do
    site="$folder/$hospital/site.yaml"
    fedward model list --site "$site"
    fedward audit verify --site "$site" --anchors "$anchors"
done
report=$(dirname "$anchors")/report.html
[ ! -f "$report" ] || echo "report: $report"
