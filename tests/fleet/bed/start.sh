# What a host of the bed does when it is switched on: Docker of its own in the background, sshd in the foreground.
set -eu
install -m 0600 /bed/host_ed25519 /etc/ssh/host_ed25519
install -m 0644 /bed/authorized_keys /etc/ssh/authorized_keys
install -m 0644 /bed/sshd_extra /etc/ssh/sshd_extra
chpasswd < /bed/passwords
mkdir -p /run/sshd /etc/docker
ip route del default 2>/dev/null || :  # a site without a way out
[ "${BED_CARDS:-0}" -eq 0 ] || sh /cards.sh "$BED_CARDS" "$(hostname)"
(
    while :; do
        rm -f /run/docker.pid /var/run/docker/containerd/containerd.pid
        dockerd --iptables=false --ip6tables=false --ip-forward=false --storage-driver overlay2 --log-level warn \
            --cgroup-parent "/$BED_CGROUP" --exec-opt native.cgroupdriver=cgroupfs $BED_DOCKERD >>/var/log/dockerd.log 2>&1 || :
        sleep 1
    done
) &
exec /usr/sbin/sshd -D -e
