"""Rules about moving cache between prefill and decode servers, and about schedulers that start jobs."""

from __future__ import annotations

from dsctl.doctor.rules.entry import C, W, log

_FLOW = "A request through prefill and decode answers 200 under load."

RULES = (
    log("KV-TRANSFER", C, "Cache could not be moved from the prefill to the decode server", "kvtransfererror|failed to send kv chunk|failed to get kvcache|transfer data timeout|batch data transfer timeout|nixl|mooncake|decode transfer failed|prefill transfer failed",
        r"KVTransferError|Failed to send kv chunk|Failed to get kvcache from prefill instance|Sync batch data transfer timeout|(?:Decode|Prefill) transfer failed for request|Mooncake transfer failed|NIXL_ERR_\w+|nixl\w*(?:Backend|RemoteDisconnect|NotFound|Invalid)\w*Error|nixl[^\n]{0,60}BAD_STATUS", unless=r"Aborted by AbortReq", depth=2, category="network",
        cause="A transfer of KV cache between the two servers timed out or was refused: the RDMA device or rail that was chosen does not reach the peer, the peer died, or one transfer was too large for the time-out under load.",
        fix="Name the device on both sides (SGLang --disaggregation-ib-device mlx5_0; UCX_NET_DEVICES=mlx5_0:1 for NIXL) and test it with ib_write_bw between exactly these hosts; look at the peer's own log; same engine version, page size and KV dtype on both sides; if only long prompts fail, lower --chunked-prefill-size and raise the transfer time-out.", verify=_FLOW),
    log("KV-EXPIRED", W, "Prefilled cache was thrown away before a decode server fetched it", "releasing expired kv blocks", r"Releasing expired KV blocks for request", category="network", least=3, depth=2,
        cause="The decode side did not fetch the blocks in time: it is overloaded, unreachable or ended.", fix="Add decode replicas or lower the prefill rate; look at the decode servers' logs for failed transfers; raise VLLM_NIXL_ABORT_REQUEST_TIMEOUT only if the queue is long on purpose.", verify=_FLOW),
    log("NVSHMEM", C, "NVSHMEM could not set up its connections", "nvshmem", r"nvshmem(?:i_\w+)?[^\n]{0,160}(?:setup connections failed|initialization failed|connect EPS failed|mem registration failed)|nvshmem[^\n]{0,200}non-zero status: \d+", category="network", depth=1,
        cause="Expert-parallel kernels (DeepEP) talk through NVSHMEM, and its transport did not come up: no GPU-initiated RDMA (IBGDA) in the driver, no peer memory module, or unreachable RDMA devices.",
        fix="On every host: options nvidia NVreg_EnableStreamMemOPs=1 NVreg_RegistryDwords=\"PeerMappingOverride=1;\" in /etc/modprobe.d, then reboot; load nvidia-peermem (or use dma-buf); NVSHMEM_HCA_LIST / NVSHMEM_IB_GID_INDEX as for NCCL; containers need --privileged or the /dev/infiniband devices and IPC_LOCK. Without it: run with --moe-a2a-backend none or the normal dispatch mode.", verify="The engine becomes ready; deepep's own test_internode passes."),
    log("SLURM-OOM", C, "Slurm killed the step at its memory limit", "oom_kill event|oom-kill event|task", r"slurmstepd: error: .*(?:oom[_-]kill event|Exceeded (?:job|step) memory limit|OOM Killed)|srun: error: (?P<host>[\w.-]+): tasks? \S+: Out Of Memory", category="host", depth=0,
        cause="The job used more host memory than its --mem (or --mem-per-gpu) allows; weights that are read, pinned buffers and /dev/shm count.", fix="Ask for more: sbatch --mem=0 (all of the node) or --mem-per-gpu=200G; or load with fewer processes at once; `sacct -j JOB -o MaxRSS,ReqMem` shows what it took.", verify="sacct shows MaxRSS below ReqMem; no oom-kill in the step's output."),
    log("SLURM-TIME", C, "Slurm ended the job at its time limit", "due to time limit", r"(?:slurmstepd|srun): error: \*\*\* (?:JOB|STEP) \S+ ON (?P<host>\S+) CANCELLED AT \S+ DUE TO TIME LIMIT", category="host", depth=0,
        cause="The job reached --time; nothing is broken.", fix="Ask for a longer --time, or serve outside the batch system; save checkpoints before the limit (--signal=B:USR1@300).", verify="`sacct -j JOB -o State` shows COMPLETED."),
    log("SLURM-NODE", C, "Slurm lost a node of the job", "node fail|due to node failure", r"(?:NODE FAIL|(?:ON (?P<on>\S+) )?CANCELLED AT \S+ DUE TO NODE FAILURE|DUE TO NODE FAILURE|error: Node failure on (?P<host>\S+))", category="host", depth=0,
        cause="slurmd of {host}{on} no longer answers: the host crashed, lost power or its network.", fix="Look at the node (`scontrol show node`, its BMC and kernel log); requeue the job without it (--exclude).", verify="`sinfo -R` is empty; the job runs."),
    log("KILLED-BARE", C, "The shell says that the program was killed", "killed", r"^(?:[\w./-]+: line \d+: +\d+ )?Killed(?: +(?:python|vllm|\S*/)\S*[^\n]{0,200})?$", category="host", depth=4,
        cause="Signal 9 without a word from the program: nearly always the kernel's memory killer while weights are read into host memory, or a limit of the container or batch system.", fix="`dmesg -T | grep -i 'killed process'` on that host (and `docker inspect --format '{{.State.OOMKilled}}'`). If memory: give more RAM or a higher limit, load with fewer workers at once, put no model into /dev/shm.", verify="The program stays up; no new kill in dmesg."),
)  # fmt: skip
