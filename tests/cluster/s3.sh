#!/usr/bin/env bash
# The small DAG up to its scores with results on an S3 server, moto's on this machine, and on the file system: the
# scores must be the same. Minutes; needs nothing but Python.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
server=
trap '[[ -z $server ]] || kill "$server"; rm -rf "$work"' EXIT
port=${VLFM_S3_PORT:-5999}

python3 -m venv "$work/venv"
source "$work/venv/bin/activate"
# botocore does without the newest python-dateutil.
grep -v '^python-dateutil==' constraints.txt > "$work/constraints.txt"
pip install --quiet -c "$work/constraints.txt" -e . 'moto[server]' snakemake-storage-plugin-s3

moto_server -H 127.0.0.1 -p "$port" > "$work/server.log" 2>&1 &
server=$!
until curl --silent --output /dev/null "http://127.0.0.1:$port"; do
  kill -0 "$server" || { cat "$work/server.log" >&2; exit 1; }
  sleep 0.5
done

export OMP_WAIT_POLICY=PASSIVE
# moto takes any key.
export SNAKEMAKE_STORAGE_S3_ACCESS_KEY=any SNAKEMAKE_STORAGE_S3_SECRET_KEY=any
run() {
  snakemake --cores all --quiet rules --directory "$work/$1" --configfile "$PWD/tests/workflow/small.yaml" "${@:2}"
}
server_at=(--storage-s3-endpoint-url "http://127.0.0.1:$port")
s3=(--default-storage-provider s3 --default-storage-prefix s3://vlfm/run "${server_at[@]}")
run local -- results/eval/psnr.csv
run s3 "${s3[@]}" -- results/eval/psnr.csv
AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any python - "http://127.0.0.1:$port" "$work/psnr.csv" <<'END'
import sys
import boto3

boto3.client("s3", endpoint_url=sys.argv[1]).download_file("vlfm", "run/results/eval/psnr.csv", sys.argv[2])
END
cmp "$work/psnr.csv" "$work/local/results/eval/psnr.csv"
[[ $(run s3 "${s3[@]}" --dry-run -- results/eval/psnr.csv 2>&1) == *"Nothing to be done"* ]]
# The Kubernetes profile, as far as it goes without a cluster.
pip install --quiet -c "$work/constraints.txt" snakemake-executor-plugin-kubernetes
run pods --profile workflow/profiles/kubernetes "${server_at[@]}" --dry-run > /dev/null
echo "the same scores from S3"
