# Boots systemd as process 1 of the namespaces that we are in, on a copy of this machine's root that keeps nothing.
# Nothing is started there but the journal: no unit of this machine's own, no generator's.
#   SCRATCH  an empty directory      OPT  what is to be /opt/meshlb
set -e
SCRATCH=$1 OPT=$2
mount -t tmpfs -o mode=755 tmpfs "$SCRATCH"
mkdir -p "$SCRATCH/upper" "$SCRATCH/work" "$SCRATCH/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$SCRATCH/upper,workdir=$SCRATCH/work" "$SCRATCH/root"
cd "$SCRATCH/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm dev/mqueue
for each in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "dev/${each%:*}" c 1 "${each#*:}"; done
mknod -m 666 dev/tty c 5 0
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=1777 tmpfs tmp
# The node's: Docker's socket, and the network namespaces that it mounts there later.
mount --rbind /run run
mount --make-rslave run
rm -rf lib/systemd/system/*.wants etc/systemd/system/*.wants lib/systemd/system-generators/*
mkdir -p etc/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\n' >etc/systemd/journald.conf.d/machine.conf
for target in sysinit basic shutdown network-online multi-user; do
    printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' $target >etc/systemd/system/$target.target
done
printf '[Unit]\nDescription=up\nDefaultDependencies=no\nWants=systemd-journald.service systemd-journald.socket\n' \
    >etc/systemd/system/machine.target
rm -rf opt/meshlb etc/default/meshlb-agent etc/systemd/system/meshlb-agent.service var/lib/meshlb
cp -a "$OPT" opt/meshlb
mkdir -p before
pivot_root . before
umount -l /before
export container=meshlb
exec /lib/systemd/systemd --system --unit=machine.target --log-target=journal-or-kmsg
