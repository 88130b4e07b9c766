# The kernel. The machines of the local cloud share their host's, so what is built here is a stand-in, with a version: what
# a deployer sees of a kernel is that its store path changes and that only a reboot brings it.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.boot;
  kernel = cfg.kernelPackages.kernel;

  list = description: mkOption { type = types.listOf types.str; default = [ ]; inherit description; };
  flag = default: description: mkOption { type = types.bool; inherit default description; };
in
{
  options = {
    boot = {
      kernelPackages = mkOption {
        type = types.raw;
        default = pkgs.linuxPackages;
        # Another version: pkgs.linuxPackages_6_18, or pkgs.linuxPackagesFor (pkgs.linux.override { version = "6.12.99"; }).
        description = "The kernel and what is built for it.";
      };
      kernelParams = list "Words of the kernel's command line.";
      kernelModules = list "Kernel modules to load; stored only.";
      extraModulePackages = mkOption {
        type = types.listOf types.package;
        default = [ ];
        description = "Packages of kernel modules; stored only.";
      };
      blacklistedKernelModules = list "Kernel modules not to load; stored only.";
      extraModprobeConfig = mkOption { type = types.lines; default = ""; description = "Stored only."; };
      kernel.sysctl = mkOption {
        type = types.attrsOf (types.nullOr (types.oneOf [ types.bool types.int types.str ]));
        default = { };
        description = "Values of sysctl.d.";
      };
      supportedFilesystems = mkOption {
        type = types.either (types.listOf types.str) (types.attrsOf types.bool);
        default = [ ];
        description = "Stored only.";
      };
      growPartition = flag false "Stored only: the image has no partition.";
      isContainer = flag false "Must stay off: the machines boot from a menu.";
      tmp.cleanOnBoot = flag false "Stored only.";
      tmp.useTmpfs = flag false "Stored only.";
      initrd = {
        enable = flag true "Stored only.";
        availableKernelModules = list "Stored only.";
        kernelModules = list "Stored only.";
        systemd.enable = flag true "Stored only.";
        secrets = mkOption { type = types.attrsOf types.anything; default = { }; description = "Must be empty here."; };
      };
    };
    hardware.enableRedistributableFirmware = flag false "Stored only.";
    system.modulesTree = mkOption { type = types.package; internal = true; description = "The kernel's modules."; };
  };

  config = {
    boot.kernelParams = [ "loglevel=4" ];
    system.build = {
      inherit kernel;
      initialRamdisk = pkgs.runCommandLocal "initrd-linux-${kernel.version}" { } ''
        mkdir $out
        echo "initrd of ${kernel.version}" > $out/initrd
      '';
    };
    system.modulesTree = cfg.kernelPackages.kernelModules;
    environment.etc."sysctl.d/60-nixos.conf" = {
      enable = cfg.kernel.sysctl != { };
      text = lib.concatStrings (lib.mapAttrsToList (name: value:
        lib.optionalString (value != null) "${name}=${if value == false then "0" else toString value}\n") cfg.kernel.sysctl);
    };
    assertions = [
      { assertion = !cfg.isContainer; message = "boot.isContainer: this <nixpkgs> is for machines that boot from a menu."; }
      { assertion = cfg.initrd.secrets == { }; message = "boot.initrd.secrets: this <nixpkgs> has no initrd to hold them."; }
    ];
  };
}
