# A machine on EC2, as NixOS's images are.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.ec2;
in
{
  imports = [ ./ec2-data.nix ./amazon-init.nix ];

  options.ec2 = {
    efi = mkOption {
      type = types.bool;
      default = pkgs.stdenv.hostPlatform.isAarch64;
      description = "Whether the machine boots through UEFI.";
    };
    hvm = mkOption {
      type = types.enum [ true ];
      default = true;
      description = "Must stay on: there are no others any more.";
    };
    zfs.enable = mkOption {
      type = types.enum [ false ];
      default = false;
      description = "Must stay off: the local cloud's images have ext4.";
    };
  };

  config = {
    fileSystems."/" = lib.mkDefault { device = "/dev/disk/by-label/nixos"; fsType = "ext4"; autoResize = true; };
    fileSystems."/boot" = lib.mkIf cfg.efi (lib.mkDefault { device = "/dev/disk/by-label/ESP"; fsType = "vfat"; });
    boot = {
      growPartition = true;
      # no_timer_check is ours: an emulator that gets no processor for a while loses the ticks that the kernel waits for.
      kernelParams = [ "console=ttyS0,115200n8" "random.trust_cpu=on" "panic=1" "boot.panic_on_fail" "no_timer_check" ];
      loader.timeout = lib.mkDefault 1;
      loader.grub = {
        device = if cfg.efi then "nodev" else "/dev/xvda";
        efiSupport = cfg.efi;
        efiInstallAsRemovable = cfg.efi;
      };
    };
    systemd.enableEmergencyMode = false;

    services.openssh.enable = true;
    services.openssh.settings.PermitRootLogin = lib.mkDefault "prohibit-password";

    # Left to the metadata service.
    networking.hostName = lib.mkDefault "";
    networking.timeServers = [ "169.254.169.123" ];
  };
}
