"""Rules about what active tests (--deep) measure, and about links and certificates as they are now."""

from __future__ import annotations

from dsctl.doctor.rules.entry import C, W, live

RULES = (
    live("DEEP-GPU-MEMORY", W, "A card's memory is far slower than it should be", "deep.gpu", category="gpu",
         cause="Card {gpu} copies {rate} GB/s; {usual}.",
         fix="Look at its clocks and temperature under load (`nvidia-smi -q -d PERFORMANCE,CLOCK -i {gpu}`), at ECC and row remapping, and at who else uses it; reset it when it is idle (nvidia-smi --gpu-reset -i {gpu}); `dcgmi diag -r 3 -i {gpu}` before it is replaced.",
         verify="`dsctl doctor --deep` shows the rate again.", depth=0),
    live("DEEP-GLOO", C, "Processes of this machine cannot compute together", "deep.gloo", category="network",
         cause="A small collective between processes failed {words}.",
         fix="Replicas of several ranks will hang as well. Allow traffic on the loopback interface (ip addr show lo; iptables -L INPUT), leave GLOO_SOCKET_IFNAME unset or name an interface that exists; a rank that ended says why in brackets: no memory, no file handles (ulimit -n), no torch.",
         verify="`python -m engine.parallel.preflight --ranks 2` says that the ranks agree.", depth=0),
    live("DEEP-NCCL", C, "The cards of this machine cannot compute together", "deep.nccl", category="nccl",
         cause="A small collective between cards failed {words}.",
         fix="Run it with NCCL_DEBUG=INFO and read its last lines: /dev/shm too small, P2P blocked (ACS, virtual machine: NCCL_P2P_DISABLE=1 as a test), Fabric Manager not running; then `nvidia-smi topo -p2p r` and `nvidia-smi nvlink -s`.",
         verify="`python -m engine.parallel.preflight --device cuda --ranks N` says that the ranks agree.", depth=0),
    live("DEEP-NETWORK", W, "The network between hosts is slow or shut", "deep.network", category="network",
         cause="{words}.",
         fix="Shut: open the ports between the hosts of a group (firewall, security group) and check `fabric` in the inventory. Slow: `ethtool INTERFACE` (speed, duplex), `ip -s link` (errors, drops), MTU equal on both ends, the right interface named as `fabric`.",
         verify="`dsctl doctor --deep --hosts` on the same group shows the rates again.", depth=0),
    live("LINK-STATE", C, "A network port is not ready", "links", category="network",
         cause="{words}.",
         fix="INIT or ARMED: no subnet manager has configured it (start opensm on one host or on the switch). Narrow or slow: reseat or change cable and transceiver, `mlxlink -d DEVICE -m`, check the switch port.",
         verify="`ibstat` shows Active and the full rate; `ethtool INTERFACE` shows Full duplex.", depth=0),
    live("LINK-DIFFERS", C, "A host's network port is down or slower than the same port of other hosts", "links of hosts",
         category="network", cause="{words}.",
         fix="On that host: cable, transceiver and switch port of the named device first; then firmware and driver (`ibstat`, `mlxlink -d DEVICE -m`, `ethtool INTERFACE`). Until it is repaired, drain the host: one slow link slows every rank.",
         verify="`dsctl doctor --hosts` on the same group shows no difference.", depth=0),
    live("LINK-ERRORS", W, "A network port loses or damages packets", "links", category="network",
         cause="{words}.",
         fix="Reseat or change the cable and the transceiver, clean fibre ends, check the switch port's counters; then reset the counters (perfquery -R, ethtool -S) and look again.",
         verify="The counters stand still under load."),
    live("TLS-EXPIRY", W, "A TLS certificate ends soon or has ended", "certificates", category="edge",
         cause="{words}.",
         fix="Renew it (certbot renew, or your CA), put the new chain where front.tls_certificate points, `dsctl deploy`; let a timer do it from now on.",
         verify="`openssl s_client -connect HOST:PORT </dev/null | openssl x509 -noout -dates`."),
)  # fmt: skip
