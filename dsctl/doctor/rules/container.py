"""Rules about Docker, the NVIDIA container toolkit and Kubernetes."""

from __future__ import annotations

from dsctl.doctor.model import Rule
from dsctl.doctor.rules.entry import CONTAINER, KERNEL, C, W, log

_GPU = "`docker run --rm --gpus all IMAGE nvidia-smi` lists the cards."


def ct(  # noqa: PLR0913 - an entry has as many fields as the catalogue
    id_: str, title: str, literals: str, pattern: str, *, cause: str, fix: str, verify: str, depth: int = 1, unless: str = "", refine: str = "",
) -> Rule:  # fmt: skip
    """A critical container rule."""
    return log(
        id_, C, title, literals, pattern, needs=CONTAINER, category="container", cause=cause, fix=fix, verify=verify, depth=depth,
        unless=unless, refine=refine,
    )  # fmt: skip


RULES = (
    ct("CT-MISSING", "Docker knows no way to give a container GPUs", "could not select device driver", r'could not select device driver "[^"]*" with capabilities: \[\[gpu',
       cause="The NVIDIA container toolkit is not installed, or Docker was not told about it.", fix="Install nvidia-container-toolkit, then: nvidia-ctk runtime configure --runtime=docker && systemctl restart docker.", verify=_GPU),
    ct("CT-RUNTIME", "Docker does not know the runtime 'nvidia'", "runtime", r"(?:unknown or invalid runtime name: nvidia|[Uu]nknown runtime specified nvidia)",
       cause="/etc/docker/daemon.json has no nvidia runtime.", fix="nvidia-ctk runtime configure --runtime=docker && systemctl restart docker.", verify="`docker info` lists nvidia under Runtimes."),
    ct("CT-NVML-UNKNOWN", "The container lost its cards while it was running", "failed to initialize nvml: unknown error", r"Failed to initialize NVML: Unknown Error",
       cause="systemd reloaded its units (daemon-reload) and took the device permissions from the container's cgroup.", fix="Recreate the container now. For good: CDI (nvidia-ctk cdi generate; --device nvidia.com/gpu=all), or `nvidia-ctk system create-dev-char-symlinks --create-all` with a udev rule, or pass --device /dev/nvidia* explicitly.", verify="`systemctl daemon-reload` on the host, then `docker exec NAME nvidia-smi` still works."),
    ct("CT-LIBLOAD", "The toolkit finds no driver on the host", "load library failed|nvml error: driver not loaded", r"load library failed: libnvidia-ml\.so\.1|nvml error: driver not loaded",
       depth=3, cause="The host has no NVIDIA driver, or Docker came as a snap and cannot see it.", fix="Install the driver on the host (`nvidia-smi` must work there); replace snap Docker by docker-ce; on WSL update the Windows driver.", verify=_GPU),
    ct("CT-HOOKMISMATCH", "The host's driver and its library differ, so no container gets GPUs", "nvml error: driver/library version mismatch", r"nvml error: driver/library version mismatch",
       depth=2, cause="The host's driver package was upgraded while the old module stayed loaded.", fix="Drain the host and reboot it (or reload the nvidia modules); hold the packages: apt-mark hold 'nvidia-*'.", verify="`nvidia-smi` works on the host; " + _GPU),
    ct("CT-CDI", "The container runtime cannot resolve the CDI device", "unresolvable cdi devices", r"unresolvable CDI devices (?P<dev>(?P<vendor>[\w.-]+?)/[\w.-]+=[\w.-]+)",
       cause="There is no CDI specification for {dev} (or it is stale after a driver change).", fix="On the node: nvidia-ctk cdi generate --vendor={vendor} --output=/etc/cdi/{vendor}.yaml (the GPU operator: restart its toolkit pod); `nvidia-ctk cdi list` must show {dev}; repeat after every driver change.", verify="`nvidia-ctk cdi list` prints the device."),
    ct("CT-CGROUP", "The toolkit does not understand the host's cgroups", "cgroup subsystem devices not found|failed to get device cgroup", r"cgroup subsystem devices not found|failed to get device cgroup mount path",
       cause="An old libnvidia-container on a cgroup-v2 host (or rootless Docker).", fix="Upgrade nvidia-container-toolkit (1.8 or newer); for rootless set no-cgroups = true in /etc/nvidia-container-runtime/config.toml.", verify=_GPU),
    ct("CT-LDCONFIG", "The toolkit cannot update the container's library cache", "ldcache error", r"nvidia-container-cli: ldcache error",
       cause="The path of ldconfig in the toolkit's configuration is wrong, or the image's loader is broken.", fix="In /etc/nvidia-container-runtime/config.toml set ldconfig = \"@/sbin/ldconfig\" (Ubuntu: @/sbin/ldconfig.real) and restart Docker.", verify=_GPU),
    ct("CT-REQUIRE", "The image needs a newer driver than the host has", "unsatisfied condition", r"unsatisfied condition: (?P<what>[^,\n\"]{1,80})",
       cause="The image declares {what}; the host's driver does not meet it.", fix="Upgrade the host's driver, or use an image with older CUDA. NVIDIA_DISABLE_REQUIRE=1 only hides it.", verify=_GPU),
    ct("CT-DEVICE", "The container asks for a card that is not there", "unknown device", r"device error: (?P<dev>[\w-]+): unknown device",
       cause="Device {dev} does not exist on this host: wrong index or UUID, or the card fell off the bus.", fix="`nvidia-smi -L` lists what there is: correct --gpus / NVIDIA_VISIBLE_DEVICES; if a card is missing look for Xid lines in dmesg.", verify=_GPU),
    ct("CT-LIBEXISTS", "The image contains files of the NVIDIA driver", "file exists", r"nvidia-container-cli: mount error: (?:file creation|mount operation) failed: \S*?(?P<f>/usr/\S*lib(?:nvidia|cuda)[\w.+-]*|/usr/bin/nvidia[\w-]*)\S*: file exists",
       cause="The image brings {f} itself (it was committed from a running GPU container, or the driver was installed in it), and the toolkit must put the host's file there.", fix="Rebuild the image without driver packages; or in its Dockerfile: RUN rm -f /usr/lib/x86_64-linux-gnu/libnvidia-*.so* /usr/lib/x86_64-linux-gnu/libcuda.so* (never `docker commit` a GPU container).", verify=_GPU),
    ct("CT-HOOK", "The NVIDIA hook failed while the container started", "nvidia-container-cli: mount error|nvidia-container-cli: detection error|nvidia-container-cli: initialization error", r"nvidia-container-cli: (?P<why>(?:mount|detection|initialization) error:(?![^\n]*: file exists)(?! load library failed| nvml error: driver/library| nvml error: driver not loaded)[^\n]{0,160})",
       cause="{why}", fix="Run `nvidia-container-cli -k -d /dev/tty info` on the host: it shows the failing step. Usual causes: driver files of two versions, /dev/nvidia* missing (nvidia-modprobe -u -c 0), a read-only root.", verify=_GPU),
    ct("DOCKER-PERM", "The user may not talk to Docker", "permission denied while trying to connect to the docker", r"permission denied while trying to connect to the [Dd]ocker",
       cause="The user is not in the docker group.", fix="usermod -aG docker USER and log in again (this gives root on the host), or use sudo or rootless Docker.", verify="`docker ps` works."),
    ct("DOCKER-DOWN", "The Docker daemon does not run", "cannot connect to the docker daemon", r"Cannot connect to the Docker daemon",
       cause="dockerd is stopped, broken, or DOCKER_HOST points elsewhere.", fix="systemctl status docker; journalctl -u docker -n 50; a broken /etc/docker/daemon.json is the usual reason (dockerd --validate).", verify="`docker info` works."),
    ct("DOCKER-DAEMONJSON", "Docker's configuration file is broken", "unable to configure the docker daemon with file", r"unable to configure the Docker daemon with file (?P<f>\S+?):? (?P<why>[^\n]{0,160})",
       cause="{f}: {why}.", fix="Correct the file: `dockerd --validate --config-file /etc/docker/daemon.json`; an option may not stand both there and in the unit's flags.", verify="systemctl restart docker succeeds."),
    ct("DOCKER-RATE", "The registry's pull limit is reached", "toomanyrequests", r"toomanyrequests",
       cause="Anonymous pulls from this address are over the registry's limit.", fix="docker login, a mirror (registry-mirrors in daemon.json), or copy the image from a host that has it: docker save | ssh HOST docker load.", verify="`docker pull` passes."),
    ct("DOCKER-IMAGE", "The image does not exist or may not be pulled", "manifest unknown|pull access denied|manifest for|failed to resolve reference", r"failed to resolve reference \"(?P<img3>[^\"\\]+)\\?\": [^\s]+: not found|manifest unknown|pull access denied for (?P<img>\S+?)[,\s]|manifest for (?P<img2>\S+) not found",
       cause="Name or tag of {img}{img2}{img3} is wrong, or the registry wants a login.", fix="Check name and tag in the registry; docker login REGISTRY; Kubernetes: imagePullSecrets.", verify="`docker pull IMAGE` passes."),
    ct("DOCKER-ARCH", "The image is for another processor", "exec format error", r"exec format error",
       cause="An amd64 image on an arm64 host or the other way round (or a script without #!).", fix="docker pull --platform linux/arm64 (or amd64), or build for the host's platform.", verify="`docker image inspect IMAGE --format '{{.Architecture}}'` matches `uname -m`."),
    ct("DOCKER-PORT", "The host port of the container is taken", "port is already allocated|ports are not available|failed to bind host port|failed to bind port", r"[Bb]ind for \S+?:(?P<port>\d+) failed: port is already allocated|[Ff]ailed to bind (?:host )?port",
       cause="Another container or process has port {port}.", fix="`docker ps --filter publish={port}` and `ss -ltnp | grep {port}`: stop it, or publish another port.", verify="The container starts."),
    ct("DOCKER-NAME", "A container of that name exists", "is already in use by container", r'The container name "(?P<name>[^"]+)" is already in use by container',
       cause="The old container {name} was not removed.", fix="docker rm {name} (stop it first), or use --rm or another name.", verify="The container starts."),
    ct("DOCKER-ENTRY", "The command is not in the image", "executable file not found in", r'exec: "(?P<cmd>[^"]+)": executable file not found in',
       cause="{cmd} is not in the image's PATH: arguments were put where the command belongs, or the wrong image.", fix="Check the image's entrypoint (`docker image inspect`); with an entrypoint give only arguments, or use --entrypoint.", verify="The container starts."),
    ct("CT-OOMKILLED", "Docker: the container was killed at its memory limit", "oomkilled", r"\"OOMKilled\": ?true|State\.OOMKilled[^\n]{0,20}true|\bOOMKilled=true", depth=2,
       cause="The container reached its own memory limit (docker run --memory, compose mem_limit / deploy.resources.limits.memory), or the host ran out of memory; pages in /dev/shm count too.", fix="`docker stats` and `docker inspect --format '{{.HostConfig.Memory}}' NAME` show the limit: raise --memory (or leave it out on a host of its own) above weights that are loaded through host memory + page-locked buffers + --shm-size; with limit 0 the host itself was full: `dmesg -T | grep -i 'killed process'`.", verify="`docker inspect --format '{{.State.OOMKilled}}' NAME` stays false under load."),
    ct("K8S-OOMKILLED", "Kubernetes: the container was killed at its memory limit", "oomkilled", r"(?:[Rr]eason:? *[=:\"]* *\"?OOMKilled|\bOOMKilled\b(?!\"?:? ?false))", depth=2, unless=r'"?OOMKilled"?[:=] ?(?:false|true)',
       cause="The container reached resources.limits.memory; /dev/shm (emptyDir in memory) and page-locked buffers count too.", fix="Raise resources.limits.memory above weights + pinned buffers + shm size, or lower what is loaded at once.", verify="`kubectl describe pod` shows no OOMKilled; container_memory_working_set_bytes stays below the limit."),
    ct("K8S-GPU", "Kubernetes finds no free GPU", "insufficient nvidia.com/gpu|devices unavailable for nvidia.com/gpu", r"Insufficient nvidia\.com/gpu|requested number of devices unavailable for nvidia\.com/gpu",
       depth=2, refine="unplaced", cause="No node has enough free GPUs, or the device plug-in reports fewer (unhealthy cards).", fix="`kubectl describe node | grep -A8 Allocated`: free cards, ask for fewer, or mend the device plug-in (its log) and cards marked unhealthy.", verify="The pod is scheduled."),
    ct("K8S-PULL", "Kubernetes cannot pull the image", "imagepullbackoff|errimagepull", r"ImagePullBackOff|ErrImagePull", depth=2,
       cause="Wrong name, missing secret, no network, or the pull of a large image runs into a time-out.", fix="`kubectl describe pod` has the registry's words; imagePullSecrets; pre-pull large images on the nodes.", verify="The pod runs."),
    ct("K8S-PROBE", "Kubernetes killed the server because its probe failed", "failed liveness probe|failed startup probe", r"failed (?:liveness|startup) probe, will be restarted", depth=2,
       cause="The probe gives up before the model is loaded, or /health waits behind a long step.", fix="Use a startupProbe with failureThreshold x periodSeconds above the loading time (for example 60 x 30 s), and a liveness probe with timeoutSeconds of at least 10.", verify="The pod stays up while loading; restarts do not rise."),
    ct("K8S-EVICTED", "Kubernetes evicted the pod", "the node was low on resource|was evicted|the node had condition", r"[Tt]he node was low on resource: (?P<what>[\w-]+)|[Pp]od (?:was )?[Ee]victed|The node had condition: \[(?P<cond>\w+)\]",
       cause="The node ran low on {what}{cond}: weights or caches on the root disk, or memory.", fix="Put weights and caches on their own volume, set ephemeral-storage requests and limits, clean images (crictl rmi --prune).", verify="`kubectl describe node` shows no DiskPressure or MemoryPressure."),
    log("EXIT-137", W, "A container was killed with signal 9", "exited with code 137|exit code: 137|exit code 137|exitcode=137|(exit status 137)", r"(?:exited with code|[Ee]xit [Cc]ode:?|exitcode=|exit status) ?137\b", needs=CONTAINER, depth=5,
        cause="Signal 9: the kernel's or the container's memory killer, or someone's docker kill.", fix="`docker inspect --format '{{.State.OOMKilled}}' NAME` and `dmesg -T | grep -i 'killed process'` say which.", verify="The container stays up under load."),
    log("EXIT-SIGNAL", C, "A container's program crashed in native code", "exited with code 13|exit code: 13|exit code 13|exitcode=13|exit status 13", r"(?:exited with code|[Ee]xit [Cc]ode:?|exitcode=|exit status) ?(?P<code>139|134|135|132)\b", needs=CONTAINER, depth=5, refine="exit_shell",
        cause="The program ended with exit code {code} (128 + signal).", fix="Its last lines and `dmesg -T` of the host say more.", verify="The container stays up under load."),
    log("CT-SECCOMP", C, "The container may not do what NUMA or pinned memory needs", "operation not permitted", r"(?:set_mempolicy|mbind|move_pages|get_mempolicy)[^\n]{0,60}Operation not permitted", needs=(*CONTAINER, *KERNEL),
        cause="Docker's seccomp profile forbids the NUMA calls.", fix="--cap-add SYS_NICE (and --security-opt seccomp=unconfined only if that is not enough).", verify="The warning is gone."),
)  # fmt: skip
