# A computer that boots by UEFI, as computer.py makes it: its kernel, its initrd, its boot loader and what writes the
# loader's entries are real. A configuration imports this beside amazon-image.nix.
{ config, lib, pkgs, ... }:
let
  parts = /var/lib/nixpipe-cloud/kernel;
  inherit (config.boot.kernelPackages.kernel) version;
in
{
  boot.loader.grub.enable = false;
  boot.loader.efi.canTouchEfiVariables = true;
  system.build = {
    # One kernel under the name of each version: only a reboot brings the other.
    kernel = lib.mkForce (pkgs.runCommandLocal "linux-${version}" { } "mkdir $out; cp ${parts + "/vmlinuz"} $out/bzImage");
    initialRamdisk = lib.mkForce (pkgs.runCommandLocal "initrd-linux-${version}" { } "mkdir $out; cp ${parts + "/initrd"} $out/initrd");
    installBootLoader = lib.mkForce (pkgs.runCommandLocal "install-systemd-boot.sh" {
      path = lib.makeBinPath [ pkgs.coreutils pkgs.gnused ];
      inherit (pkgs) bash;
    } ''
      sed -e "s|@path@|$path|" -e "s|@bash@|$bash|" ${./install-systemd-boot.sh} > $out
      chmod +x $out
    '');
  };
  environment.systemPackages = [
    (pkgs.runCommandLocal "bootctl" { } "mkdir -p $out/bin; cp ${parts + "/bootctl"} $out/bin/bootctl; chmod +x $out/bin/bootctl")
  ];
}
