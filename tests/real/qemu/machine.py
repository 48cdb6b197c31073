"""Runs a command under Debian's kernel in QEMU, on this machine's own file system, read-only.

The unpacked kernel has virtio and 9p as modules, so an initrd loads them, mounts the machine's root over 9p, covers
what must be writable with tmpfs and runs the command there. QEMU translates the code by itself, which works everywhere;
`KAKUREMICHI_KVM=1` asks for KVM instead. It is not tried unasked: inside some virtual machines there is a /dev/kvm that
opens and then hangs.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kakuremichi.lab.programs import PROJECT
from real.qemu.initrd import archive
from real.qemu.modules import load_order

_BOOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p")
_STATUS = re.compile(r"^exit status of the command: (\d+)\r?$", re.MULTILINE)

_INIT = """#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
for module in $(busybox cat /order); do
  busybox insmod "/modules/$module" || echo "cannot insert $module"
done
busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose,noatime machine /root
busybox umount /proc
exec busybox switch_root /root /bin/sh -c {script}
"""

_SCRIPT = """
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tmpfs run /run; mkdir -p /run/wireguard /run/netns /run/tmp
ip link set lo up
cd {folder}
env -i PATH="$PATH:/usr/sbin:/sbin" HOME=/run/tmp TMPDIR=/run/tmp LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 {command}
echo "exit status of the command: $?"
sleep 0.3; echo o > /proc/sysrq-trigger; sleep 60
"""


class MachineMissingError(FileNotFoundError):
    """Something that the machine is made of is not there; the sentence says what and how to get it."""


@dataclass(frozen=True, slots=True)
class QemuKernel:
    qemu: Path
    busybox: Path
    image: Path
    modules: Path


def find_qemu_kernel() -> QemuKernel:
    """QEMU and static busybox from PATH, the kernel from `KAKUREMICHI_KERNEL` or .local/kernel, as dpkg unpacks it."""
    folder = Path(os.environ.get("KAKUREMICHI_KERNEL", PROJECT / ".local/kernel"))
    images = sorted(folder.glob("boot/vmlinuz-*"))
    if not images:
        raise MachineMissingError(f"no kernel under {folder}: run 'scripts/install-debian.sh tests'")
    modules = folder / "lib/modules" / images[-1].name.removeprefix("vmlinuz-")
    return QemuKernel(_program("qemu-system-x86_64"), _program("busybox"), images[-1], modules)


def _program(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise MachineMissingError(f"{name} is not installed: run 'scripts/install-debian.sh tests'")
    return Path(found)


def run(
    machine: QemuKernel,
    command: Sequence[str],
    *,
    folder: Path,
    modules: Sequence[str],
    scratch: Path,
    timeout_s: float,
) -> tuple[int | None, str]:
    """The command's exit status (None if the machine never got so far) and all that the console showed.

    `modules` are inserted before; `scratch` takes the initrd. The machine has no network and cannot write to this one.
    """
    initrd = scratch / "initrd"
    initrd.write_bytes(_initrd(machine, command, folder, modules))
    try:
        done = subprocess.run(
            _argv(machine, initrd), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=timeout_s, check=False,
        )  # fmt: skip
        console = done.stdout.decode(errors="replace")
    except subprocess.TimeoutExpired as error:
        console = (error.stdout or b"").decode(errors="replace") + f"\nstopped after {timeout_s:.0f} s"
    found = _STATUS.search(console)
    return (int(found.group(1)) if found else None), console


def _initrd(machine: QemuKernel, command: Sequence[str], folder: Path, modules: Sequence[str]) -> bytes:
    order = load_order(machine.modules, (*_BOOT_MODULES, *modules))
    script = _SCRIPT.format(folder=shlex.quote(str(folder)), command=shlex.join(command))
    files = {
        "bin/busybox": machine.busybox.read_bytes(),
        "init": _INIT.format(script=shlex.quote(script)).encode(),
        "order": "\n".join(path.name for path in order).encode(),
        **{f"modules/{path.name}": path.read_bytes() for path in order},
    }
    return archive(files, ("bin", "proc", "root", "modules", "dev"))


def _argv(machine: QemuKernel, initrd: Path) -> list[str]:
    share = "local,path=/,mount_tag=machine,security_model=none,readonly=on,multidevs=remap"
    accelerator = "kvm" if os.environ.get("KAKUREMICHI_KVM") == "1" else "tcg,thread=multi"
    append = "console=ttyS0 quiet panic=-1 sysrq_always_enabled=1 nokaslr mitigations=off"
    return [
        str(machine.qemu), "-machine", "q35", "-accel", accelerator, "-cpu", "max", "-smp", "2", "-m", "1024",
        "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-virtfs", share,
        "-kernel", str(machine.image), "-initrd", str(initrd), "-append", append,
    ]  # fmt: skip
