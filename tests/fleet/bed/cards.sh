# Gives a host of the bed a number of NVIDIA cards to show: what the driver, nvidia-smi and the container toolkit say,
# and a hook that notes which cards each container was given. `sh /cards.sh N NAME`, before Docker starts.
set -eu
count=$1 name=$2
mkdir -p /opt/cards
mount -t tmpfs none /proc/driver
mkdir -p /proc/driver/nvidia
echo "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan  1 00:00:00 UTC 2026" >/proc/driver/nvidia/version
: >/opt/cards/cards.csv
number=0
while [ "$number" -lt "$count" ]; do
    uuid=$(printf '%s-%d' "$name" "$number" | sha256sum | sed 's/^\(.\{8\}\)\(.\{4\}\)\(.\{4\}\)\(.\{4\}\)\(.\{12\}\).*/GPU-\1-\2-\3-\4-\5/')
    echo "$number, $uuid, NVIDIA A100-SXM4-80GB, 81920, 81000, 8.0, Disabled" >>/opt/cards/cards.csv
    number=$((number + 1))
done
cat >/usr/local/bin/nvidia-smi <<'SMI'
#!/bin/sh
case "$*" in
*--query-gpu=index,uuid,name,memory.total,memory.free,compute_cap,mig.mode.current*) cat /opt/cards/cards.csv ;;
*--query-compute-apps*) : ;;
*"-q -d COMPUTE"*) echo "CUDA Version                              : 12.8" ;;
-L) sed 's/^\([0-9]*\), \(GPU-[^,]*\), \([^,]*\),.*/GPU \1: \3 (UUID: \2)/' /opt/cards/cards.csv ;;
*) echo "this stand-in of nvidia-smi does not know: $*" >&2; exit 2 ;;
esac
SMI
cat >/usr/local/bin/nvidia-ctk <<'CTK'
#!/bin/sh
echo "NVIDIA Container Toolkit CLI version 1.17.4"
CTK
cat >/usr/local/bin/nvidia-container-runtime-hook <<'HOOK'
#!/usr/bin/python3
"""Notes which cards a container was given: one JSON line a start in /opt/cards/given.jsonl."""
import json
import sys
from pathlib import Path

state = json.load(sys.stdin)
config = json.loads((Path(state["bundle"]) / "config.json").read_text())
told = dict(each.split("=", 1) for each in config["process"]["env"])
line = {"container": state["id"], "program": told.get("DSCTL_PROGRAM", ""), "cards": told["NVIDIA_VISIBLE_DEVICES"].split(",")}
with Path("/opt/cards/given.jsonl").open("a") as notes:
    notes.write(json.dumps(line) + "\n")
HOOK
chmod 0755 /usr/local/bin/nvidia-*
