# Options of the boot loader; system/boot-loader.nix writes the menu.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.boot.loader;
in
{
  options.boot.loader = {
    timeout = mkOption {
      type = types.nullOr types.int;
      default = 5;
      description = "Seconds until the default entry boots; null waits for ever.";
    };
    efi.canTouchEfiVariables = mkOption { type = types.bool; default = false; description = "Stored only."; };
    efi.efiSysMountPoint = mkOption { type = types.str; default = "/boot"; description = "Stored only."; };
    systemd-boot.enable = mkOption {
      type = types.bool;
      default = false;
      description = "Whether systemd-boot is the boot loader.";
    };
    grub = {
      enable = mkOption {
        type = types.bool;
        default = !cfg.systemd-boot.enable;
        description = "Whether GRUB is the boot loader.";
      };
      device = mkOption { type = types.str; default = ""; description = "The disk that GRUB is written to."; };
      devices = mkOption {
        type = types.listOf types.str;
        default = [ ];
        description = "The disks that GRUB is written to.";
      };
      default = mkOption {
        type = types.either types.int types.str;
        default = "0";
        apply = toString;
        description = "The entry that boots by default.";
      };
      configurationLimit = mkOption {
        type = types.ints.unsigned;
        default = 100;
        description = "The most generations in the menu.";
      };
      efiSupport = mkOption {
        type = types.bool;
        default = false;
        description = "Stored only: the local cloud's firmware reads /boot/grub/grub.cfg.";
      };
      efiInstallAsRemovable = mkOption { type = types.bool; default = false; description = "Stored only."; };
      extraConfig = mkOption { type = types.lines; default = ""; description = "Stored only."; };
      useOSProber = mkOption { type = types.bool; default = false; description = "Stored only."; };
    };
  };

  config.assertions = [ {
    assertion = cfg.grub.enable -> cfg.grub.device != "" || cfg.grub.devices != [ ];
    message = "You must set the option ‘boot.loader.grub.devices’ or 'boot.loader.grub.mirroredBoots' to make the system bootable.";
  } ];
}
