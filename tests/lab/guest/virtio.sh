#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The guest's virtio devices, as the cases of tests/lab use them; each part only where it is there:
#
#     virtio up        drivers, disks, networks, ports: "DEVICES disks=data,extra nets=user,tap
#                      ports=echo console=hvc0 rng=virtio_rng.0"
#     virtio work      writes to the disk, downloads through both networks, reads random numbers,
#                      until `virtio end`; lines FILES, LOAD and RNG tell of it
#     virtio end       ends that, unmounts, mounts and compares: "FILES CHECKED", then "DISK done"
#     virtio disk ID   the device of a disk, by its serial number
#     virtio queues    "QUEUES eth1 rx0=..." of the tap, see netqueues.c
#
# The disk `data` is mounted on /disk, any other, read-only, on /ID. Networks go by their address:
# 52:54:00:00:00:01 is user networking, :02 a tap; where that has several queues, as many CPUs each
# have a download of their own (tap, tap1, ...). What comes in over the port `echo` or hvc0 goes
# back with "ECHO " before it.

SERVER_PORT=7700
LINE_MS=1000
FILES=16

disk() {
    for sys in /sys/block/vd*; do
        [ "$(cat "$sys/serial" 2>/dev/null)" = "$1" ] && echo "/dev/${sys##*/}"
    done
}

net() {
    for sys in /sys/class/net/eth*; do
        [ "$(cat "$sys/address" 2>/dev/null)" = "$1" ] && echo "${sys##*/}"
    done
}

port() {
    for sys in /sys/class/virtio-ports/*; do
        [ "$(cat "$sys/name" 2>/dev/null)" = "$1" ] && echo "/dev/${sys##*/}"
    done
}

# The numbers of a device's queues.
queues_of() {
    ls -d "/sys/class/net/$1/queues"/rx-* | sed 's/.*-//'
}

# Up to two seconds, for what the devices tell of only after a while.
await() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ -n "$(eval "$1")" ] && return
        usleep 200000
    done
}

up_disks() {
    for sys in /sys/block/vd*; do
        id=$(cat "$sys/serial" 2>/dev/null)
        [ -n "$id" ] || continue
        device=/dev/${sys##*/}
        if [ "$id" = data ]; then
            mkdir -p /disk && mount -t ext4 "$device" /disk && echo data
        else
            mkdir -p "/$id" && mount -t ext4 -o ro "$device" "/$id" && echo "$id"
        fi
    done
}

up_net() {
    device=$(net "$1")
    [ -n "$device" ] && ip addr add "$2" dev "$device" && ip link set "$device" up && echo "$3"
}

# Says back what it hears; a port whose other end is not there has nothing to read, and that ends.
echo_on() {
    exec 3<>"$1"
    [ -t 3 ] && stty raw -echo <&3
    while :; do
        if read -r line <&3; then
            echo "ECHO $line" >&3
        else
            usleep 100000
        fi
    done
}

up() {
    for module in $(cat /lib/virtio); do
        insmod "/lib/$module.ko" || echo "INNER no module $module"
    done
    disks=$(up_disks)
    nets=$(up_net 52:54:00:00:00:01 10.0.2.15/24 user; up_net 52:54:00:00:00:02 192.168.77.2/24 tap)
    ports= console=
    # a machine with ports has some driver for them
    if [ -n "$(ls /sys/bus/virtio/drivers/virtio_console 2>/dev/null | grep '^virtio')" ]; then
        await 'port echo'
        device=$(port echo)
        if [ -n "$device" ]; then
            ports=echo
            echo_on "$device" &
        fi
        if [ -c /dev/hvc0 ]; then
            console=hvc0
            echo_on /dev/hvc0 &
        fi
    fi
    rng=$(grep virtio /sys/class/misc/hw_random/rng_current 2>/dev/null)
    echo DEVICES "disks=$(echo $disks | tr ' ' ,)" "nets=$(echo $nets | tr ' ' ,)" \
        "ports=$ports" "console=$console" "rng=$rng"
}

random() {
    n=0
    while :; do
        bytes=$(dd if=/dev/hwrng bs=32 count=1 2>/dev/null | md5sum)
        n=$((n + 1))
        echo "RNG $n ${bytes%% *}"
        sleep 1
    done
}

work() {
    [ -n "$(disk data)" ] && files work /disk $FILES $LINE_MS &
    [ -n "$(net 52:54:00:00:00:01)" ] && download user 10.0.2.2 $SERVER_PORT $LINE_MS &
    tap=$(net 52:54:00:00:00:02)
    for queue in ${tap:+$(queues_of "$tap")}; do
        name=tap${queue#0}
        # a mask of CPUs; where there is one queue, any CPU
        run=$([ "$(queues_of "$tap" | wc -l)" = 1 ] || printf 'taskset %x' $((1 << queue)))
        $run download "$name" 192.168.77.1 $SERVER_PORT $LINE_MS &
    done
    grep -q virtio /sys/class/misc/hw_random/rng_current 2>/dev/null && random &
}

end() {
    killall -TERM files 2>/dev/null
    killall download 2>/dev/null
    while pidof files >/dev/null; do usleep 100000; done
    if grep -q ' /disk ' /proc/mounts; then
        umount /disk && mount -t ext4 "$(disk data)" /disk && files check /disk && umount /disk
    fi
    echo "DISK done status=$?"
}

case $1 in
up | work | end) "$1" ;;
disk) disk "$2" ;;
queues) netqueues "$(net 52:54:00:00:00:02)" ;;
*) echo "usage: virtio up | work | end | disk ID | queues" >&2; exit 2 ;;
esac
