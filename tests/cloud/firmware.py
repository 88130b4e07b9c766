"""What a computer has that boots by UEFI: a disk with a boot loader on it, firmware, and the memory of that.

The disk is a FAT file system as a whole, which firmware takes for a removable one: it starts \\EFI\\BOOT\\BOOTX64.EFI
there (UEFI specification, 3.5.1.1). That is systemd-boot, and the entry is the one of the image's system.
"""

import os
import pathlib
import shutil
import subprocess

MEBIBYTES = 128


def make(folder: pathlib.Path, parts: pathlib.Path, command_line: str) -> None:
    disk = folder / "esp.img"
    disk.unlink(missing_ok=True)
    disk.touch()
    os.truncate(disk, MEBIBYTES << 20)
    shutil.copy(parts / "OVMF_VARS.fd", folder / "variables.fd")
    (folder / "loader.conf").write_text("timeout 0\ndefault nixos-generation-1.conf\n")
    (folder / "entry.conf").write_text(
        f"title NixOS\nlinux /EFI/nixos/linux.efi\ninitrd /EFI/nixos/initrd.efi\noptions {command_line}\n"
    )
    mtools("mformat", disk, "-F", "-T", str(MEBIBYTES << 11), "::")
    mtools("mmd", disk, *(f"::{name}" for name in ("EFI", "EFI/BOOT", "EFI/nixos", "loader", "loader/entries")))
    for source, place in (
        (parts / "systemd-bootx64.efi", "EFI/BOOT/BOOTX64.EFI"),
        (parts / "vmlinuz", "EFI/nixos/linux.efi"),
        (parts / "initrd", "EFI/nixos/initrd.efi"),
        (folder / "loader.conf", "loader/loader.conf"),
        (folder / "entry.conf", "loader/entries/nixos-generation-1.conf"),
    ):
        mtools("mcopy", disk, source, f"::{place}")


def mtools(program: str, disk: pathlib.Path, *words) -> None:
    subprocess.run([program, "-i", disk, *words], check=True)


def arguments(folder: pathlib.Path, parts: pathlib.Path) -> list:
    """Returns what qemu is to be told; what the firmware remembers stays in the folder."""
    return [
        "-drive", f"if=pflash,format=raw,readonly=on,file={parts}/OVMF_CODE.fd",
        "-drive", f"if=pflash,format=raw,file={folder}/variables.fd",
        "-drive", f"file={folder}/esp.img,format=raw,if=none,id=esp,cache=writeback",
        "-device", "nvme,drive=esp,serial=esp",
    ]  # fmt: skip
