#!/bin/bash
# The first process of a node's PID namespace: readies a private view of the machine, starts containerd, kubelet and kube-proxy, and ends
# when one of them does. Killing it ends every process of the node at once, as pulling the plug does.
set -eu
directory=$1 address=$2 gateway=$3 cores=$4 memory_kibibytes=$5
shift 5
etc=$directory/etc

# Mounts of volumes must reach containers that start later, and nothing of it the machine.
mount --make-rprivate /
mount --make-rshared /
mount -t tmpfs -o mode=755 run /run
# Kernel settings that a kubelet would set for the whole machine: it finds them set.
for entry in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    setting=/run/sysctl/${entry%%=*}
    mkdir -p "${setting%/*}"
    echo "${entry#*=}" > "$setting"
    mount --bind "$setting" "/proc/sys/${entry%%=*}"
done
# Each start has a boot id of its own: by that a kubelet tells a reboot from its own restart.
cat /proc/sys/kernel/random/uuid > /run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
cp /run/boot_id "$directory/boot_id"
# The size of a GPU node, which this machine need not have: engines ask for more than emulated ones use.
sed "s/^MemTotal:.*/MemTotal: $memory_kibibytes kB/" /proc/meminfo > /run/meminfo
mount --bind /run/meminfo /proc/meminfo
# More sockets with the same CPUs: a kubelet pins its pods to CPUs that must be there.
count=$(ls -d /sys/devices/system/cpu/cpu[0-9]* | wc -l)
for (( socket = 0; socket * count < cores; socket++ )); do
    mkdir -p "/run/sockets/node$socket"
    ln -s /sys/devices/system/cpu/cpu[0-9]* "/run/sockets/node$socket/"
done
mount --bind /run/sockets /sys/devices/system/node

ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip address add "$address" dev eth0
ip link set eth0 up
ip route add default via "$gateway"
for route in "$@"; do ip route add "${route%%=*}" via "${route#*=}"; done
echo 1 > /proc/sys/net/ipv4/ip_forward

containerd --config "$etc/containerd.toml" > "$directory/containerd.log" 2>&1 &
until ctr version >/dev/null 2>&1; do sleep 0.05; done
while read -r archive; do
    imported=$directory/imported-${archive##*/}
    [ -e "$imported" ] || ctr --namespace k8s.io images import "$archive" > "$directory/import.log" 2>&1
    touch "$imported"
done < "$etc/images"
"$etc/kube-proxy" --config "$etc/kube-proxy.json" > "$directory/kube-proxy.log" 2>&1 &
"$etc/kubelet" --config "$etc/kubelet.json" --kubeconfig "$etc/kubelet.kubeconfig" \
    --root-dir "$directory/kubelet" $(cat "$etc/kubelet.flags") > "$directory/kubelet.log" 2>&1 &
wait -n
