"""Rules about what Kubernetes, Docker's client and the registry say when a container does not come up."""

from __future__ import annotations

from dsctl.doctor.model import Rule
from dsctl.doctor.rules.entry import CONTAINER, C, log

_RUNS = "`kubectl get pod` shows Running and ready."
_START = "The container starts."


def ct(  # noqa: PLR0913 - an entry has as many fields as the catalogue
    id_: str, title: str, literals: str, pattern: str, *, cause: str, fix: str, verify: str, depth: int = 1, unless: str = "", refine: str = "",
) -> Rule:  # fmt: skip
    """A critical rule about starting containers."""
    return log(
        id_, C, title, literals, pattern, needs=CONTAINER, category="container", cause=cause, fix=fix, verify=verify, depth=depth,
        unless=unless, refine=refine,
    )  # fmt: skip


RULES = (
    ct("K8S-TAINT", "Kubernetes: the pod does not tolerate the nodes' taint", "had untolerated taint", r"nodes? are available: (?:(?!Insufficient nvidia)[^\n])*?had untolerated taint \{(?P<taint>[^}:]*nvidia[^}:]*|[^}:]*gpu[^}:]*)", unless=r"Insufficient nvidia\.com/gpu",
       refine="unplaced", cause="The GPU nodes are tainted with {taint}, and the pod has no toleration for it.", fix="Add to the pod: tolerations: [{key: {taint}, operator: Exists, effect: NoSchedule}] (and a nodeSelector for the GPU nodes).", verify="The pod is scheduled."),
    ct("K8S-FIT", "Kubernetes: no node fits the pod", "failedscheduling|nodes are available", r"nodes? are available: [^\n]*?(?P<why>Insufficient (?:memory|cpu|ephemeral-storage|hugepages-\w+|rdma/\w+)|didn't match Pod's node affinity/selector|had volume node affinity conflict|didn't find available persistent volumes)", unless=r"Insufficient nvidia\.com/gpu|nvidia\.com/gpu: present",
       refine="unplaced", cause="No node meets the pod's requests: {why}.", fix="`kubectl describe node | grep -A8 Allocated` and the node's labels: lower requests to what a node has (allocatable, not total), correct nodeSelector/affinity, or add a node; volumes bound to one zone or node pin the pod there.", verify="The pod is scheduled."),
    ct("K8S-DEVPLUGIN", "Kubernetes: the GPU device plugin cannot hand out cards", "unexpectedadmissionerror|getpreferredallocation|error calling nvml.init|device plugin", r"Allocate failed due to (?P<why>device plugin [^\n]{0,160}|(?:rpc|requested)[^\n]{0,120}nvidia[^\n]{0,80})|error calling nvml\.Init|UnexpectedAdmissionError[^\n]{0,200}nvidia",
       cause="NVIDIA's device plugin on this node lost its connection to the driver (driver upgraded or reloaded, a card lost, permissions taken by a daemon-reload).", fix="On the node check `nvidia-smi` and `dmesg | grep -i xid`; then restart the plugin: kubectl -n nvidia-device-plugin (or gpu-operator) delete pod of that node; if nvidia-smi fails, drain and reboot the node. A pod that was refused stays Failed: delete it, its controller makes a new one.", verify="`kubectl describe node` lists nvidia.com/gpu under Allocatable; " + _RUNS, depth=3),
    ct("K8S-RUNTIME", "Kubernetes: the node's container runtime does not know nvidia", "no runtime for", r"no runtime for \"?(?P<h>nvidia[\w-]*)\"? is configured",
       cause="The pod asks for runtime class {h}, and containerd on that node has no such runtime.", fix="On the node: nvidia-ctk runtime configure --runtime=containerd && systemctl restart containerd (or repair the GPU operator's toolkit pod).", verify=_RUNS),
    ct("K8S-MOUNT", "Kubernetes cannot mount a volume of the pod", "failedmount|failedattachvolume|multi-attach error|unable to attach or mount volumes|mountvolume.setup failed", r"(?:FailedMount|FailedAttachVolume)[^\n]*?(?P<why>Multi-Attach error[^\n]{0,120}|MountVolume\.\w+ failed for volume[^\n]{0,200}|[Uu]nable to attach or mount volumes[^\n]{0,160})|Multi-Attach error for volume (?P<v>\S+)",
       cause="{why}{v}", fix="`kubectl describe pod` and `kubectl get pvc,pv,secret,configmap`: create what is missing; a ReadWriteOnce volume can be on one node only (delete the old pod, or use ReadWriteMany); for NFS check the server and that nfs-common is on the node.", verify=_RUNS),
    ct("K8S-CONFIG", "Kubernetes: a secret or config map of the pod is missing", "createcontainerconfigerror|couldn't find key|error: secret|error: configmap", r"(?:CreateContainerConfigError|Error: )[^\n]{0,80}(?:secret|configmap) \"(?P<n>[^\"]+)\" not found|couldn't find key (?P<k>\S+) in (?:Secret|ConfigMap) (?P<n2>\S+)",
       cause="{n}{n2} does not exist in the pod's namespace (or lacks the key {k}).", fix="Create it in the same namespace (kubectl -n NS create secret generic {n}{n2} --from-literal=…), or correct the name in the manifest.", verify=_RUNS),
    ct("DOCKER-BIND", "Docker cannot mount a directory into the container", "bind source path does not exist|invalid mount config|error mounting|mounts denied", r"bind source path does not exist: (?P<p>\S+)|error mounting \"(?P<p2>[^\"]+)\" to rootfs[^\n]{0,160}|[Mm]ounts denied",
       cause="{p}{p2} does not exist on this host (a typo, or a disk that is not mounted), or is a file where a directory is expected.", fix="`ls -ld` that path on the host, `findmnt` its disk; mount the disk or correct -v / volumes:.", verify=_START),
    ct("DOCKER-NET", "Docker could not set up the container's network", "driver failed programming external connectivity|iptables failed|failed to create endpoint|could not find an available, non-overlapping", r"iptables failed: iptables[^\n]{0,160}|could not find an available, non-overlapping IPv4 address pool|network (?P<n>\S+) not found", unless=r"port is already allocated",
       cause="Docker's iptables chains are gone (a firewall was reloaded after Docker started), or its address pools are used up.", fix="systemctl restart docker (it makes its chains again; containers restart); docker network prune for old networks; let firewalld/ufw start before Docker. For GPU servers --network=host avoids both.", verify=_START),
    ct("DOCKER-PULL-NET", "The registry does not answer or its certificate is not trusted", "client.timeout exceeded|tls handshake timeout|x509: certificate|failed to resolve reference|failed to do request|i/o timeout", r"(?:Get|Head|failed to do request: Head|failed to resolve reference)[^\n]{0,40} ?\"?https?://(?P<reg>[\w.:-]+)/(?:v2/|[^\n]{0,100}manifests)[^\n]{0,160}?(?P<why>Client\.Timeout exceeded|TLS handshake timeout|x509: [^\n\"]{1,120}|i/o timeout|connection refused|no such host|context deadline exceeded)",
       cause="The image cannot be pulled from {reg}: {why}.", fix="`curl -v https://{reg}/v2/` on that host: proxy (systemd drop-in for docker with HTTPS_PROXY), DNS, firewall; a private CA goes to /etc/docker/certs.d/{reg}/ca.crt. Or copy the image: docker save | ssh HOST docker load.", verify="`docker pull` passes."),
    ct("CT-DEVNODE", "A GPU device file is missing on the host", "/dev/nvidia|error gathering device information", r"error gathering device information while adding custom device \"(?P<d>/dev/[^\"]+)\"|(?:stat|open|failed to stat CDI host device \"?)\s?\"?(?P<d2>/dev/nvidia[\w-]*)\"?:? ?(?:no such file or directory|does not exist)",
       cause="{d}{d2} is not there: the nvidia_uvm module is not loaded yet, or the driver is gone.", fix="nvidia-modprobe -u -c=0 (makes the files), enable nvidia-persistenced at boot; if `nvidia-smi` fails too, repair the driver first.", verify="`ls -l /dev/nvidia*`; `docker run --rm --gpus all IMAGE nvidia-smi`."),
    ct("K8S-QUOTA", "Kubernetes: the namespace's quota is used up", "exceeded quota", r"exceeded quota: (?P<q>[\w.-]+), requested: (?P<ask>[^\n]*?), used: (?P<used>[^\n]*?), limited: (?P<lim>[^\n\"]+)",
       cause="The quota {q} allows {lim}; {used} are used already and the pod asks for {ask}.", fix="`kubectl describe quota {q}` and `kubectl get pods` in that namespace: end what is no longer needed (an old replica set or a finished job may hold the cards), ask for less, or let the administrator raise the quota; for a rollout without spare cards set strategy Recreate or maxSurge: 0.", verify="`kubectl describe quota` shows room; the pod is created."),
    ct("K8S-PVC", "Kubernetes: the pod's volume claim is not bound", "storageclass|provisioningfailed|unbound immediate persistentvolumeclaims", r"storageclass\.storage\.k8s\.io \"(?P<sc>[\w.-]+)\" not found|ProvisioningFailed(?![^\n]*storageclass\.storage)|\(x\d{2,} over [^\n]*unbound immediate PersistentVolumeClaims", unless=r"[Ww]aiting for", refine="unplaced",
       cause="No volume was made for the claim (storage class {sc}).", fix="`kubectl describe pvc` has the reason, `kubectl get storageclass` the classes there are: correct storageClassName (a claim's class cannot be changed: delete and create it), install the provisioner, or create a matching PV.", verify="`kubectl get pvc` shows Bound; the pod is scheduled."),
    log("K8S-UNHEALTHY", C, "The device plugin took a card out of service after an Xid", "marking device as unhealthy|xidcriticalerror", r"XidCriticalError: Xid=(?P<xid>\d+) on Device=(?P<gpu>(?:GPU|MIG)-[\w-]+)", needs=CONTAINER, category="container", depth=0,
       cause="The driver reported Xid {xid} on {gpu}; the device plugin marked the card unhealthy and no longer hands it out, so the node has fewer free GPUs.", fix="`dmesg -T | grep -i xid` on that node tells the card's story: drain the node, reset the card (nvidia-smi --gpu-reset -i {gpu}) or reboot, replace it if the Xid returns; then restart the device plugin's pod on that node, which counts the cards anew.", verify="`kubectl describe node` shows the full number of nvidia.com/gpu as allocatable; no new Xid."),
)  # fmt: skip
