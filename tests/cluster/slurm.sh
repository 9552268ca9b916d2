#!/usr/bin/env bash
# A real Slurm of two nodes on this machine runs the small DAG to psnr.csv, and trains on both nodes at once.
#
#   sudo env "PATH=$PATH" bash tests/cluster/slurm.sh      with `snakemake` and `vlfm` in the PATH
#
# On the way one job is cancelled and its node goes down under another; psnr.csv must be that of a run without Slurm
# (a finished one of small.yaml that VLFM_FINISHED_RUN names, or one made here). Training on two nodes is told to stop
# once; its weights must be those of one process.
#
# Needs root, and Debian's packages, which it installs. Where they cannot be had, or Slurm does not start, it says so and
# ends with 0.
set -euo pipefail
cd "$(dirname "$0")/../.."
profile=workflow/profiles/slurm
small="$PWD/tests/workflow/small.yaml"

skip() {
  echo "tests/cluster/slurm.sh is skipped: $1"
  exit 0
}

fail() {
  echo "tests/cluster/slurm.sh: $1" >&2
  exit 1
}

# --------------------------------------------------------------------------------------------- a cluster of two nodes

[[ $(id -u) == 0 ]] || skip "Slurm's daemons need root"
# srun in a job knows no other place: the plugin clears Slurm's variables there.
[[ ! -e /etc/slurm/slurm.conf ]] || skip "this machine has a Slurm of its own, in /etc/slurm/slurm.conf"
if ! type slurmctld slurmd srun munged &> /dev/null; then
  command -v apt-get > /dev/null || skip "there is no apt-get to install Slurm with"
  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
    slurmctld slurmd slurm-client munge; } > /dev/null || skip "Debian's packages of Slurm could not be installed"
fi

work=$(mktemp -d)
daemons=()
snakemake=
finish() {
  status=$?
  set +e
  trap - INT TERM
  if [[ -n $snakemake ]]; then  # which would wait for its jobs: `timeout` kills it five seconds later
    kill -TERM "$snakemake" 2> /dev/null
    wait "$snakemake" 2> /dev/null
  fi
  if [[ ${#daemons[@]} != 0 ]]; then
    timeout 20 scancel --me --quiet 2> /dev/null
    for _ in {1..100}; do [[ -n $(timeout 5 squeue --noheader 2> /dev/null) ]] || break; sleep 0.5; done
    kill "${daemons[@]}" 2> /dev/null
    wait "${daemons[@]}"
  fi
  if [[ $status != 0 ]]; then
    for log in "$work"/*.log; do
      echo "--- the end of $(basename "$log")" >&2
      tail --lines 30 "$log" >&2
    done
  fi
  rm -rf "$work" /etc/slurm/slurm.conf /etc/slurm/gres.conf
}
trap finish EXIT
trap 'exit 143' INT TERM

read -r port port_one port_two < <(python - << 'END'
import contextlib, socket

with contextlib.ExitStack() as stack:
    free = [stack.enter_context(socket.socket()) for _ in range(3)]
    for each in free:
        each.bind(("", 0))
    print(*(each.getsockname()[1] for each in free))
END
)
# Each node says that it has the processors and the memory that the rules ask for, and a GPU, which is none.
processors=$(($(nproc) > 4 ? $(nproc) : 4))
node="NodeHostname=localhost NodeAddr=127.0.0.1 CPUs=$processors RealMemory=64000 Gres=gpu:1"
{ mkdir -p /etc/slurm && touch /etc/slurm/slurm.conf; } 2> /dev/null || skip "/etc/slurm cannot be written"
cat > /etc/slurm/slurm.conf << END
ClusterName=vlfm
SlurmctldHost=localhost
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# Slurm waits as long as a credential lives before it starts a job again.
AuthInfo=cred_expire=15
MessageTimeout=60
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool.%n
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.%n.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.%n.log
TaskProlog=$work/prolog
GresTypes=gpu
NodeName=one Port=$port_one $node
NodeName=two Port=$port_two $node
PartitionName=all Nodes=ALL Default=YES
END
echo "Name=gpu File=/dev/null" > /etc/slurm/gres.conf
mkdir "$work/state"
# As clusters do that give each job a folder on its node.
printf '#!/bin/sh\necho "export SLURM_TMPDIR=%s/scratch/$SLURM_JOB_ID"\n' "$work" > "$work/prolog"
chmod +x "$work/prolog"

if ! munge --no-input > /dev/null 2>&1; then
  install -d -o munge -g munge /run/munge || skip "munge's folder, /run/munge, cannot be made"
  runuser -u munge -- munged --foreground &> "$work/munged.log" &
  daemons+=($!)
fi
slurmctld -D &> "$work/slurmctld.out" &
daemons+=($!)

# Start a node, and wait until jobs can run there.
start_node() {
  slurmd -D -N "$1" &> "$work/slurmd.$1.out" &
  daemons+=($!)
  local end=$((SECONDS + 90))
  while ((SECONDS < end)); do
    # Without a controller it would ask again for as long as messages may take.
    [[ -z $(timeout 5 sinfo --noheader --nodes="$1" --states=IDLE 2> /dev/null) ]] || return 0
    sleep 0.3
  done
  return 1
}
if ! start_node one || ! timeout 90 srun --nodelist=one true; then
  tail --lines 20 "$work"/*.log "$work"/*.out >&2 || true
  skip "Slurm does not start, or runs no jobs, here"
fi
# Where `scontrol` takes more than ten seconds, on a busy machine, the plugin (2.8.0) asks sacct once, whatever the
# profile says, and without accounting it never hears of its jobs again.
mkdir "$work/bin"
printf '#!/bin/sh\nexec squeue --noheader --states=all --format="%%i|%%T"\n' > "$work/bin/sacct"
chmod +x "$work/bin/sacct"
export PATH="$work/bin:$PATH"

# ------------------------------------------------------------------------------------------------------- the small DAG

run="$work/run"
on_slurm() {  # THREADS ARGUMENTS…
  exec timeout --kill-after=5 2400 snakemake --profile "$profile" --directory "$run" --configfile "$small" \
    --max-threads "$1" --slurm-init-seconds-before-status-checks 3 --seconds-between-status-checks 3 "${@:2}"
}

# The id of a running job of a rule.
running() {
  local id
  while kill -0 "$snakemake" 2> /dev/null; do
    id=$(squeue --noheader --states=RUNNING --format='%A %k' | awk -v rule="rule_$1" '$2 ~ "^" rule {print $1; exit}')
    [[ -n $id ]] && echo "$id" && return
    sleep 0.3
  done
  fail "no job of $1 ran"
}

finished=${VLFM_FINISHED_RUN:-$work/local}
if [[ -z ${VLFM_FINISHED_RUN:-} ]]; then
  snakemake results/eval/psnr.csv --cores all --directory "$finished" --configfile "$small" &> "$work/local.log"
fi

begin=$SECONDS
on_slurm "$(nproc)" results/eval/psnr.csv &> "$work/snakemake.log" &
snakemake=$!
cancelled=$(running decode)
scancel "$cancelled"
orphaned=$(running invert)
scontrol update nodename=one state=down reason="a test"
while [[ -n $(squeue --noheader --jobs "$orphaned" --states=RUNNING) ]]; do sleep 0.3; done
# Its daemon may have brought it back already, which is no state to resume from.
scontrol update nodename=one state=resume 2> /dev/null || true
wait "$snakemake" || fail "the run on Slurm failed"
snakemake=
grep -q "'$cancelled' failed, SLURM status is: 'CANCELLED'" "$work/snakemake.log" || fail "no job was cancelled"
grep -q "mem_mb=4000,.*runtime=480" "$work/snakemake.log" || fail "the next try did not ask for more memory and time"
[[ -d $work/scratch/$orphaned ]] || fail "temporary files were not put into the job's folder on the node"
grep -qi "requeue.*JobId=$orphaned" "$work/slurmctld.log" || fail "the job was not started again after its node's failure"
cmp "$run/results/eval/psnr.csv" "$finished/results/eval/psnr.csv"
echo "on Slurm, a job cancelled and its node down once: the same psnr.csv, in $((SECONDS - begin)) s"

# ---------------------------------------------------------------------------------------------- training on both nodes

start_node two || fail "node two did not start"
begin=$SECONDS
rm -r "$run/results/checkpoints"
settings='training={nodes: 2, steps: 40, keep: 20, precision: float32, optimizer: adamw, emphasis: 1.0}'
on_slurm 1 train --config "$settings" &> "$work/training.log" &
snakemake=$!
job=$(running train_model)
[[ $(squeue --noheader --jobs "$job" --format='%D') == 2 ]] || fail "training is no job of two nodes"
until compgen -G "$run/results/checkpoints/*/step-*.safetensors" > /dev/null; do
  kill -0 "$snakemake" 2> /dev/null || fail "training ended before it saved anything"
  sleep 0.1
done
scancel --signal=TERM "$job"
wait "$snakemake" || fail "training on two nodes failed"
snakemake=
grep -q "going on from step" "$run/results/logs/train.log" || fail "training did not stop and go on"
for processes in 1 2; do
  (
    cd "$run"
    vlfm train --config results/config.yaml --nodes 1 --processes "$processes" --threads "$processes" \
      --output "$processes/model" --checkpoints "$processes/checkpoints" --metrics "$processes/metrics.csv"
  ) &> "$work/alone-$processes.log"
done
# However often it stopped: the bytes of two processes of one machine.
model=transformer/diffusion_pytorch_model.safetensors
cmp "$run/results/model/$model" "$run/2/model/$model"
# Of one process what rounding leaves: half a batch's gradients are summed first. AdamW makes more of it each step, so
# the fourth step's weights are compared.
python - "$run" << 'END'
import sys
from pathlib import Path

import torch

from vlfm.storage.checkpoints import load_state


def weights(folder, step):
    (path,) = Path(sys.argv[1], folder).glob(f"*/step-{step:08d}.safetensors")
    return torch.cat([value.flatten() for value in load_state(path)["model"].values()])


one, two, later = weights("1/checkpoints", 4), weights("results/checkpoints", 4), weights("1/checkpoints", 8)
difference, moved = (two - one).norm() / one.norm(), (later - one).norm() / one.norm()
print(f"weights of two nodes and of one process: {difference:.1e} apart; four steps move them by {moved:.1e}")
sys.exit(bool(difference > 1e-4 or moved < 1e-2))
END
echo "training on two nodes, stopped once: the weights of one process, in $((SECONDS - begin)) s"
