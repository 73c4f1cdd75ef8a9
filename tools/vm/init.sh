#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The first process of a guest (busybox): loads modules, lays a tmpfs over this machine's root, and hands over to the
# script of tools/vm/machine.py, which is in the directory that comes back.
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module; do
	insmod "/modules/$module.ko" || echo "insmod $module failed"
done </modules/order

options=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "$options,cache=loose,ro" root /lower || echo "the machine's root cannot be mounted"
mount -t tmpfs -o size=75% upper /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /new || echo "no overlay"

mount -t proc proc /new/proc
mount -t sysfs sys /new/sys
mount -t devtmpfs dev /new/dev
mkdir -p /new/dev/pts /new/dev/shm /new/out
mount -t devpts devpts /new/dev/pts
mount -t tmpfs tmpfs /new/dev/shm
mount -t tmpfs tmpfs /new/run
# A project below /tmp stays where it is. The variable is a parameter of the kernel that it does not know.
case ${podgate_folder:-} in
/tmp/*)
	mkdir /kept
	mount -o bind "/new$podgate_folder" /kept
	mount -t tmpfs tmpfs /new/tmp
	mkdir -p "/new$podgate_folder"
	mount -o bind /kept "/new$podgate_folder"
	;;
*) mount -t tmpfs tmpfs /new/tmp ;;
esac
mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
mount -t bpf bpf /new/sys/fs/bpf
mount -t tracefs tracefs /new/sys/kernel/tracing
mount -t debugfs debugfs /new/sys/kernel/debug
mount -t securityfs securityfs /new/sys/kernel/security
mount -t 9p -o "$options" out /new/out || echo "the results' directory cannot be mounted"
ip link set lo up

exec switch_root /new /out/guest.sh </dev/console >/dev/console 2>&1
