#!/bin/busybox sh
# Process 1 of the virtual machine: mounts what a machine has, chooses the cgroup version, runs one command on its own
# console, says how that ended, and switches the machine off. Until the command's console is open, any error ends the
# machine (set -e in process 1 panics the kernel), which nobody can mistake for success.
# @@BOOTED and @@EXIT are read by xtask/src/vm/console.rs; /etc/vm.conf is written by xtask/src/vm/initramfs.rs.
set -eu
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
export PATH=/usr/local/bin:/bin:/usr/bin:/sbin HOME=/root USER=root LANG=C.UTF-8 RUST_BACKTRACE=1
. /etc/vm.conf
export TERM

mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
ln -s /proc/self/fd /dev/fd
for fs in bpf:/sys/fs/bpf tracefs:/sys/kernel/tracing securityfs:/sys/kernel/security; do
    [ ! -d "${fs#*:}" ] || mount -t "${fs%%:*}" "${fs%%:*}" "${fs#*:}" 2>/dev/null || true
done
hostname "$VM_NAME"
ifconfig lo 127.0.0.1 up

while read -r module; do
    insmod "$module"
done < /etc/modules.list

# Every controller that this kernel has, usable right below the root.
unified() {
    mkdir -p "$1"
    mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 "$1"
    for controller in $(cat "$1/cgroup.controllers"); do
        echo "+$controller" > "$1/cgroup.subtree_control"
    done
}

# One hierarchy a controller, as systemd mounts them. The first four must be there; the others as the kernel has them.
legacy() {
    mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
    for controllers in memory freezer pids cpu,cpuacct; do
        mkdir "/sys/fs/cgroup/$controllers"
        mount -t cgroup -o "$controllers" cgroup "/sys/fs/cgroup/$controllers"
    done
    ln -s cpu,cpuacct /sys/fs/cgroup/cpu
    ln -s cpu,cpuacct /sys/fs/cgroup/cpuacct
    for controllers in cpuset blkio devices; do
        mkdir "/sys/fs/cgroup/$controllers"
        mount -t cgroup -o "$controllers" cgroup "/sys/fs/cgroup/$controllers" 2>/dev/null \
            || rmdir "/sys/fs/cgroup/$controllers"
    done
}

case "$VM_CGROUP" in
    v2) unified /sys/fs/cgroup ;;
    v1) legacy ;;
    hybrid) legacy; unified /sys/fs/cgroup/unified ;;
esac

cd /root
exec < "$VM_CONSOLE" > "$VM_CONSOLE" 2>&1
# Ours is the bare line: what a command prints arrives as it is.
[ "$VM_INTERACTIVE" = yes ] || stty -opost -echo
set +e
# A session of its own with this terminal, so that Ctrl-C reaches the command and not process 1. Its first process says
# how the command ended before it goes: when it goes, the kernel hangs up the terminal and drops what was not yet sent.
if [ "$VM_INTERACTIVE" = yes ]; then
    [ -z "$VM_SIZE" ] || stty $VM_SIZE
    setsid -c sh -l
else
    echo "@@BOOTED"
    setsid -c sh -c '
        trap : INT
        sh /etc/vm.command < /dev/null
        printf "@@EXIT %s\n" $?
        stty -echo # returns when every byte is out
    '
fi
poweroff -f
