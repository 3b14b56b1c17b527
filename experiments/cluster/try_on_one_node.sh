#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Tries sweep.sbatch on a real Slurm: munged, slurmctld and slurmd of this machine alone, on
# loopback, as root, in a folder of their own. A small sweep in four shards; the process of one is
# killed in mid-write and its task requeued; then merge and report. Exits with 0 when nothing is
# lost or doubled, with 77 and the reason where Slurm cannot be tried.
#
#   experiments/cluster/try_on_one_node.sh [EMPTY FOLDER TO KEEP THE RUNS IN]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$PATH:/usr/sbin:/sbin
: "${ATTNBENCH:=$here/../../attnbench}"
export ATTNBENCH

skip() { echo "not tried: $*"; exit 77; }
fail() { echo "try_on_one_node: $*" >&2; exit 1; }
for program in munged slurmctld slurmd sbatch scontrol squeue; do
  command -v "$program" >/dev/null || skip "no $program (Debian: slurm-wlm and munge)"
done
[ "$(id -u)" = 0 ] || skip "slurmd starts jobs as root only"

work=$(mktemp -d)
chmod 755 "$work"  # munge wants its socket to be in reach of all
keep=${1:-$work/runs}
mkdir -p "$work"/{run,log,state,spool} "$keep"
stop() {
  status=$?
  for daemon in slurmd slurmctld munged; do
    file=$work/run/$daemon.pid
    [ -s "$file" ] || continue
    kill "$(cat "$file")" 2>/dev/null || :
    for _ in {1..100}; do [ -e "$file" ] || break; sleep 0.1; done
  done
  if [ "$status" != 0 ]; then tail -n 20 "$work"/log/*.log "$keep"/*.log >&2 2>/dev/null || :; fi
  rm -rf -- "$work"
}
trap stop EXIT
# until_true SECONDS COMMAND...
until_true() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || fail "waited in vain for: $*"
    sleep 0.2
  done
}

# --- one node on loopback -------------------------------------------------------------------------
read -r ctld_port slurmd_port < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in held))')
node=$(hostname -s)
cat >"$work/slurm.conf" <<EOF
ClusterName=try
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$work/run/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort=$ctld_port
SlurmdPort=$slurmd_port
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/run/slurmctld.pid
SlurmdPidFile=$work/run/slurmd.pid
SlurmctldLogFile=$work/log/slurmctld.log
SlurmdLogFile=$work/log/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=1,sched_interval=1,bf_interval=5
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=2000
PartitionName=main Nodes=$node Default=YES MaxTime=60 State=UP
EOF
export SLURM_CONF=$work/slurm.conf
(umask 077 && head -c 1024 /dev/urandom >"$work/munge.key")
munged --key-file="$work/munge.key" --socket="$work/run/munge.socket" \
  --pid-file="$work/run/munged.pid" --log-file="$work/log/munged.log" --seed-file="$work/state/seed"
slurmctld -c -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF" -N "$node"
up() { timeout 20 sinfo -h -t idle -o %n 2>/dev/null | grep -qx "$node"; }
until_true 30 up
echo "Slurm $(slurmd -V | cut -d' ' -f2) is up on $node"

# --- an array of four shards, one killed and requeued --------------------------------------------
cat >"$keep/tiny.toml" <<EOF
title = "Small enough for a trial"
[sweep]
rounds = 6
max_seconds_per_case = 0.1
target_interval = 1e-6  # so that no visit is over at once
plateau = false
repeat_slowed = false
[axes]
keys = "64:512:*2"
head_dim = 32
[[kernel]]
name = "naive"
[[kernel]]
name = "flash"
EOF
cd "$keep"
job=$(sbatch --parsable --array=1-4 "$here/sweep.sbatch" "$keep/shards" "$keep/tiny.toml")
victim=$keep/shards/shard-2-of-4
started() { [ -s "$victim/records.jsonl" ] && [ "$(wc -l <"$victim/records.jsonl")" -ge 2 ]; }
until_true 120 started
kill -KILL "$(cat "$victim/.lock")"  # the harness, as when memory runs out or a node is lost
cp "$victim/records.jsonl" "$keep/before.jsonl"
printf '{"schema":1,"case":"torn in mid-wri' >>"$victim/records.jsonl"
requeued() { scontrol requeue "${job}_2" 2>/dev/null; }
until_true 30 requeued
begun() { scontrol show job "${job}_2" | grep -q 'Restarts=1'; }
until_true 30 begun
scontrol update jobid="${job}_2" StartTime=now 2>/dev/null || :  # else it waits for two minutes
echo "task 2 of job $job: killed after $(wc -l <"$keep/before.jsonl") records, and requeued"
finished() { [ -z "$(timeout 20 squeue -h -j "$job")" ]; }
until_true 240 finished
states=$(scontrol show job "$job" | grep -o 'JobState=[A-Z_]*' | sort | uniq -c | xargs)
[ "$states" = '4 JobState=COMPLETED' ] || fail "the tasks ended as: $states"

# --- one sequence over two ranks, by srun ------------------------------------------------------------
ranks='not tried: fewer than two processors, or no pmix in srun'
if [ "$(nproc)" -ge 2 ] && srun --mpi=list 2>&1 | grep -q pmix; then
  printf '%s\n' '[sweep]' 'rounds = 1' 'max_seconds_per_case = 0.05' 'repeat_slowed = false' '[axes]' \
    'keys = 100' 'heads = 2' 'head_dim = 16' 'ranks = 2' 'causal = true' \
    '[[kernel]]' 'name = ["ring", "ulysses"]' >"$keep/ranks.toml"
  sbatch --wait --ntasks=2 --output="$keep/ranks.log" \
    --wrap "'$ATTNBENCH' sweep '$keep/ranks.toml' -o '$keep/ranks'" >/dev/null ||
    fail 'the sweep over ranks failed'
  ranks=$(python3 - "$keep/ranks/records.jsonl" <<'EOF'
import json, pathlib, sys
records = [json.loads(line) for line in pathlib.Path(sys.argv[1]).read_text().splitlines()]
refused = {r["reason"] for r in records if r["status"] == "refused"}
assert all("MPI" in reason for reason in refused), refused
assert len(records) == 2 and {r["status"] for r in records} <= {"ok", "refused"}, records
print("refused: " + refused.pop() if refused else "both kernels, on two ranks each")
EOF
  ) || fail 'the sweep over ranks measured something else'
fi
echo "over ranks, by srun: $ranks"

# --- merged, reported, counted -------------------------------------------------------------------
"$ATTNBENCH" merge "$keep"/shards/shard-* -o "$keep/merged" | tee "$keep/merge.txt"
grep -q '^no gaps' "$keep/merge.txt" || fail 'the merge found gaps'
"$ATTNBENCH" report "$keep/merged" --png >"$keep/report.txt"
[ -s "$keep/merged/report.html" ] || fail 'the report drew no page'
python3 - "$keep" <<'EOF'
import collections, json, pathlib, sys
keep = pathlib.Path(sys.argv[1])
read = lambda path: [json.loads(line) for line in path.read_text().splitlines()]
records = read(keep / "merged" / "records.jsonl")
visits = collections.Counter((r["case"], r["round"]) for r in records)
cases = {case for case, _ in visits}
assert len(cases) == 8 and set(visits) == {(c, i) for c in cases for i in range(6)}, "lost"
assert set(visits.values()) == {1}, "doubled"
assert all(r["status"] == "ok" for r in records), "not measured"
sessions = collections.defaultdict(set)
for r in records:
    sessions[r.pop("part")].add(r["session"])
assert sorted(map(len, sessions.values())) == [1, 1, 1, 2], "who was killed?"
assert all(r in records for r in read(keep / "before.jsonl")), "what stood before the kill is gone"
environments = json.loads((keep / "merged" / "environment.json").read_text())["parts"]
assert len(environments) == 4
print(f"{len(records)} records: {len(cases)} cases in 6 rounds, each once")
EOF
